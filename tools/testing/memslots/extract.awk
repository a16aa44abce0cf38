# SPDX-License-Identifier: GPL-2.0-only
#
# Print the functions, macros and types called NAMES (those as struct:NAME) of a
# C file that is too large to be compiled here, with the lines that they have
# there.

BEGIN {
	n = split(NAMES, names, " ")
	for (i = 1; i <= n; i++)
		wanted[names[i]] = 1
}

function line()
{
	printf "#line %d \"%s\"\n", FNR, FILENAME
}

/^#define / {
	name = $2
	sub(/\(.*/, "", name)
	if (name in wanted) {
		line()
		macro = name
	}
}

macro {
	print
	found[macro] = 1
	if (!/\\$/)
		macro = ""
}

/^(enum|struct) .*{$/ && ($1 ":" $2) in wanted {
	line()
	inside = $1 ":" $2
}

# A definition starts in the first column and has no semicolon.
/^[a-z_].*\(/ && !/;/ {
	name = $0
	sub(/\(.*/, "", name)
	sub(/.*[ *]/, "", name)
	if (name in wanted) {
		if (before == "static inline")
			print before
		line()
		inside = name
	}
}

{
	before = $0
}

inside {
	# tests call it, too
	if (!/^static inline/)
		sub(/^static /, "")
	print
	if (/^}/) {
		found[inside] = 1
		inside = ""
	}
}

END {
	for (name in wanted) {
		if (!(name in found)) {
			print "no " name " in " FILENAME > "/dev/stderr"
			exit 1
		}
	}
}
