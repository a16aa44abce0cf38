#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Do the tests notice each of the breaks in mutations/?  Run by
# "make mutation", which sets the variables.  Prints a table, and fails if a
# break survives.  BREAKS is for a part of them, see the Makefile.
#
# mutation.sh --list  only see whether each changes its file, as TAP

dir=$O/mutation

# What says so: the first complaint of the tests or of a sanitizer.
complaint()
{
	sed -n 's/^# \(.*\/\)*\([a-z_]*\.[ch]:[0-9]*: .*\)/\2/p
		s/.*\(Address\|Thread\)Sanitizer: \([-a-z ]*\).*/\1Sanitizer: \2/p
		s/.*runtime error: \(.*\)/UBSan: \1/p' "$1" | head -n 1
}

# build FLAVOUR: what does not depend on the file is not built again
build()
{
	mkdir "$1" && cp -pr "$O/$1/." "$1" &&
	make -s -C "$TESTS" SRC="$PWD/src" O="$PWD" "$PWD/$1/memslots"
}

# Some breaks show as 32-bit code only, or to TSan.
suite()
{
	asan/memslots --seed 1 --save "" --random 3000 &&
	asan/memslots --directed &&
	asan/memslots --seed 2 --save "" --random 50000 &&
	if [ -x "$O/m32/memslots" ]; then
		build m32 && m32/memslots --directed
	fi &&
	build tsan &&
	tsan/memslots --directed &&
	tsan/memslots --seed 1 --threads 3
}

# one NUMBER: build and test what $dir/NUMBER/edit makes of a file.
one()
{
	cd "$dir/$1" || exit
	{
		read -r name
		read -r file
	} <"what"

	# with those of its directory, which includes look into first
	mkdir -p src/virt
	cp -pr "$KDIR/virt/kvm" src/virt
	mkdir -p "src/${file%/*}"
	sed -f edit "$KDIR/$file" >"src/$file"
	cp -pr "$O/include" "$O/virt" .
	if ! build asan >build.log 2>&1; then
		result="DOES NOT COMPILE"
	elif suite >suite.log 2>&1; then
		result="SURVIVES"
	else
		result=$(complaint suite.log)
		result="caught: ${result:-dies}"
	fi
	printf '%-52s %s\n' "$name" "$result" >result
	cat result
	rm -rf asan m32 tsan include src virt
}

if [ "${1:---list}" != --list ]; then
	one "$1"
	exit
fi

rm -rf "$dir"
mkdir -p "$dir"
awk -v dir="$dir" -v breaks="$BREAKS" '
	/^(#|$)/ {
		next
	}
	/^\[/ {
		file = substr($0, 2, length($0) - 2)
		next
	}
	/^\t/ {
		if (where)
			print substr($0, 2) >(where "/edit")
		next
	}
	{
		close(where "/edit")
		where = ""
	}
	($0 "\n" file) ~ breaks {
		nr = sprintf("%03d", nr + 1)
		print nr >(dir "/list")
		where = dir "/" nr
		system("mkdir " where)
		print $0 "\n" file >(where "/what")
		close(where "/what")
	}
' mutations/*

[ -s "$dir/list" ] || {
	echo "not ok - no mutation has a name or file like $BREAKS"
	exit 1
}
stale=$(cd "$dir" && while read -r nr; do
	file=$KDIR/$(sed -n 2p "$nr/what")
	sed -f "$nr/edit" "$file" | cmp -s - "$file" && sed 1q "$nr/what"
done <list)
[ -z "$stale" ] || {
	echo "$stale" | sed 's/^/not ok - a mutation changes nothing: /'
	exit 1
}
[ $# -eq 0 ] || {
	echo "ok - each of $(wc -l <"$dir/list") mutations changes its file"
	exit
}

TESTS=$PWD
export TESTS
xargs -n 1 -P "${JOBS:-2}" ./mutation.sh <"$dir/list"

nr=$(cat "$dir"/*/result | wc -l)
caught=$(cat "$dir"/*/result | grep -c ' caught: ')
echo "$caught of $nr breaks are caught"
[ "$caught" -gt 0 ] && [ "$caught" -eq "$nr" ]
