#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: run.sh [-a] [-o FILE] [FILE...]    test and measure this machine's KVM; as root, in some minutes
#        run.sh -t FILE...                  only print earlier results, side by side
#
# Runs the selftests in this directory, measures the cost of memory slots, and prints a table with the processor's name, as
# text to send. Results are kept in FILE (-o; default: results-KERNEL); name such files to show them as further columns. -a
# runs all selftests: a pristine kernel may not survive those that provoke races.
set -u

here=$(cd "$(dirname "$0")" && pwd)
tab=$(printf '\t')
# Warnings in the kernel log.
splat='WARNING: |BUG|Oops|INFO: |Kernel panic|general protection fault|suspicious RCU|Call Trace:|unreferenced object'

fail() { echo "run.sh: $*" >&2; exit 1; }

table() {
	awk -F "$tab" '
	function show(x) { return sprintf(x < 0.1 ? "%.3f" : x < 100 ? "%.2f" : "%.0f", x) }
	function add(key, text) {
		if (!(key in row)) { row[key] = ++rows; cell[rows, 0] = key }
		cell[row[key], files] = text
	}
	BEGIN {
		split("setup|set up 509 slots, each|create|create one more|flags|change its flags|move|move it" \
		      "|delete|delete it|unmap-idle|VMM unmaps a page" \
		      "|exit-user|run to a port access|exit-kvm|KVM handles a CPUID", words, "|")
		for (i = 1; i in words; i += 2)
			what[words[i]] = "  " words[i + 1]
	}
	FNR == 1 { files++ }
	$1 == "name" { cell[0, files] = $2 }
	$1 == "processor" && $2 != "" && !said[$2]++ { print "processor: " $2 }
	$1 == "kernel" { add("kernel", $2) }
	$1 == "test" { add($2, sprintf("%s %.1f s", $3, $4)) }
	$1 == "row" { add("  " $2, $3) }
	$1 == "log" { add("kernel log", $2) }
	$1 == "figure" && ($2 in what) { add("microseconds to", ""); add(what[$2], show($3)) }
	END {
		for (j = 0; j <= rows; j++)
			for (i = 0; i <= files; i++)
				if (length(cell[j, i]) > width[i])
					width[i] = length(cell[j, i])
		for (j = 0; j <= rows; j++) {
			line = rule = ""
			for (i = 0; i <= files; i++) {
				pad = sprintf("%-" width[i] "s", cell[j, i])
				line = line (i ? "  " : "") pad
				gsub(/./, "-", pad)
				rule = rule (i ? "  " : "") pad
			}
			sub(/ +$/, "", line)
			print j ? line : line "\n" rule
		}
	}' "$@"
}

concerns() { dmesg | grep -cE "$splat"; }

run_tests() {	# the file of tests
	while read -r name limit command; do
		echo "$name ..." >&2
		begin=$(cut -d' ' -f1 /proc/uptime)
		# shellcheck disable=SC2086 # its words
		(cd "$work" && timeout -s KILL "$limit" "$here/tests.d/"$command) </dev/null >>"$work/log" 2>&1
		case $? in 0) verdict=PASS ;; 4) verdict=SKIP ;; *) verdict=FAIL ;; esac
		end=$(cut -d' ' -f1 /proc/uptime)
		echo "test$tab$name$tab$verdict$tab$(awk "BEGIN { print $end - $begin }")"
	done <"$1"
	sed -n "s/^# table: \(.*\): \(.*\)/row$tab\1$tab\2/p" "$work/log"
}

figures() {
	echo "measuring ..." >&2
	for options in "-s 509 -n 20 -e unmap-idle" "-s 10 -l 2M -f exit-user"; do
		# shellcheck disable=SC2086 # its words
		"$here/tests.d/memslot_cost_test" -q -o - $options 2>>"$work/log" </dev/null
	done | sed -n 's/^{.*"test": *"\([^"]*\)".*"mean_us": *\([0-9.]*\).*/figure\t\1\t\2/p'
}

[ "${1-}" != --help ] || set -- -h
tests=$here/tests only_table='' out=''
while getopts ahto: option; do
	case $option in
	a) tests=$here/tests-all ;;
	t) only_table=yes ;;
	o) out=$OPTARG ;;
	h) sed -n '3,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
for file; do
	[ -r "$file" ] || fail "$file cannot be read: give files that run.sh -o wrote"
done
if [ -n "$only_table" ]; then
	[ $# != 0 ] || fail "-t wants the files to show"
	table "$@"
	exit
fi

[ "$(id -u)" = 0 ] || fail "run it as root: the tests open /dev/kvm and read the kernel's log"
[ -c /dev/kvm ] || fail "there is no /dev/kvm: enable virtualization (VT-x, SVM) in the firmware, and load kvm_intel or kvm_amd"
out=${out:-results-$(uname -r)}
: >"$out" || fail "$out cannot be written: give another file with -o"
title=$(basename "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
before=$(concerns)
{
	echo "name$tab$title"
	echo "kernel$tab$(uname -r)"
	echo "processor$tab$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)"
	run_tests "$tests"
	new=$(($(concerns) - before))
	if [ $new = 0 ]; then echo "log${tab}clean"; else echo "log$tab$new warnings"; fi
	figures
} >"$out"
cp "$work/log" "$out.log" 2>/dev/null
table "$@" "$out"
echo "results: $out; output of the tests: $out.log" >&2
! cut -f1,3 "$out" | grep -q "^test${tab}FAIL"
