# SPDX-License-Identifier: GPL-2.0-only
#
# Print the functions, enums and macros called NAMES of a C file that is too
# large to be compiled here, with the lines that they have there.

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
		print
		found[name] = 1
	}
}

/^enum / && $2 in wanted {
	line()
	inside = $2
}

# A definition starts in the first column and has no semicolon.
/^[a-z_].*\(/ && !/;/ {
	name = $0
	sub(/\(.*/, "", name)
	sub(/.*[ *]/, "", name)
	if (name in wanted) {
		line()
		inside = name
	}
}

inside {
	# tests call it, too
	if (EXPORT)
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
