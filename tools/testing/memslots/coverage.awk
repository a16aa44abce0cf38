# SPDX-License-Identifier: GPL-2.0-only
#
# Sum up what gcov -b -c -l says about the files called FILES, which several
# objects may contain, and name what no test gets to.  Fails below MIN percent
# of the lines of a file.

BEGIN {
	n = split(FILES, files, " ")
	for (i = 1; i <= n; i++)
		wanted[files[i]] = 1
}

/^ *-: *0:Source:/ {
	file = $0
	sub(/.*Source:/, "", file)
	sub(/.*\//, "", file)
	line = 0
	next
}

!(file in wanted) {
	next
}

/^branch/ {
	if (line) {
		branch = file SUBSEP line SUBSEP $2
		branches[branch]
		# "branch 0 taken 12", or "branch 0 never executed"
		if ($3 == "taken" && $4 + 0)
			taken[branch] = 1
	}
	next
}

/^ *[0-9#=]+\*?: *[0-9]+:/ {
	split($0, part, ":")
	line = part[2] + 0
	lines[file, line]
	if (part[1] ~ /[1-9]/)
		executed[file, line] = 1
	text[file, line] = substr($0, index($0, part[2] ":") + length(part[2]) + 1)
	next
}

/^ *-:/ {
	line = 0
}

function percent(part, whole)
{
	return whole ? 100 * part / whole : 100
}

END {
	for (key in lines) {
		split(key, part, SUBSEP)
		nr_lines[part[1]]++
		if (key in executed)
			nr_executed[part[1]]++
		else
			missing[++nr_missing] = sprintf("%s:%d: never run:%s", part[1], part[2], text[key])
	}
	for (key in branches) {
		split(key, part, SUBSEP)
		nr_branches[part[1]]++
		if (key in taken)
			nr_taken[part[1]]++
		else if ((part[1], part[2]) in executed)
			missing[++nr_missing] = sprintf("%s:%d: one way only:%s", part[1], part[2], text[part[1], part[2]])
	}
	for (i = 1; i <= n; i++) {
		file = files[i]
		ratio = percent(nr_executed[file], nr_lines[file])
		bad = !nr_lines[file] || ratio < MIN
		failed += bad
		printf "%sok - coverage of %s: %.1f %% of %d lines, %.1f %% of %d branches\n",
			bad ? "not " : "", file, ratio, nr_lines[file],
			percent(nr_taken[file], nr_branches[file]), nr_branches[file]
	}
	for (i = 1; i <= nr_missing; i++)
		print "# " missing[i] | "sort -u"
	close("sort -u")
	exit failed > 0
}
