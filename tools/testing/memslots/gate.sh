#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Does the model of the gate, gate.pml, hold, and does it fail with each of the
# mutations that it lists?  Prints TAP.  O and CC as in the Makefile.

dir=$O/gate
model=$PWD/gate.pml

# verify NAME LEVEL SPIN-OPTIONS...: say how many errors there are
verify()
{
	mkdir -p "$dir/$1"
	cd "$dir/$1" || exit
	level=$2
	shift 2
	spin "$@" -a "$model" >spin.log 2>&1 &&
		"$CC" "$level" -w -DSAFETY -o pan ./pan.c >>spin.log 2>&1 &&
		./pan -m100000 -n >pan.log 2>&1 &&
		sed -n 's/.*errors: \([0-9]*\)$/\1/p' pan.log
	cd - >/dev/null || exit
}

states()
{
	sed -n 's/^ *\([0-9]*\) states, stored$/\1/p' "$dir/$1/pan.log"
}

one="-DVCPUS=1 -DRUNS=2 -DHOLDS=2"
two="-DVCPUS=2 -DRUNS=1 -DHOLDS=1"

holds()
{
	name=$1
	shift
	# shellcheck disable=SC2086,SC2048 # words
	if [ "$(verify "$name" -O2 $*)" = 0 ] &&
	   ! grep -q "max search depth too small" "$dir/$name/pan.log"; then
		echo "ok - the model of the gate, $name: $(states "$name") states"
	else
		sed 's/^/# /' "$dir/$name/spin.log" "$dir/$name/pan.log" >&2
		echo "not ok - the model of the gate, $name"
	fi
}

# What one vCPU does not show may take two.
fails()
{
	for of in "$one" "$two"; do
		# shellcheck disable=SC2086 # words
		errors=$(verify "$1" -O0 $of "-D$1")
		[ "$errors" = 0 ] || break
	done
	case $errors in
	"") echo "not ok - the model of the gate, $1: it cannot be run" ;;
	0) echo "not ok - the model of the gate, $1: nothing fails" ;;
	*) sed -n "s/^pan:1: \(.*\) (at depth .*/ok - the model of the gate, $1: \1/p" \
		"$dir/$1/pan.log" ;;
	esac
}

if ! command -v spin >/dev/null; then
	echo "ok - the model of the gate # SKIP no spin"
	exit
fi
rm -rf "$dir"
holds "one vCPU" "$one"
holds "two vCPUs" "$two"
sed -n 's/^ \* MUTATIONS: //p' gate.pml | tr ' ' '\n' | while read -r mutation; do
	fails "$mutation"
done
