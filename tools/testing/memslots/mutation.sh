#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Do the tests notice each of the breaks in the file "mutations"?  Run by
# "make mutation", which sets the variables.  Prints a table, and fails if a
# break survives.  BREAKS is for a part of them, see the Makefile.

dir=$O/mutation
files="include/linux/kvm_memslots.h include/linux/kvm_vcpu_gate.h
	virt/kvm/memslots.h virt/kvm/memslots.c
	virt/kvm/memory_regions.h virt/kvm/memory_regions_diff.c virt/kvm/memory_regions.c
	virt/kvm/memory_regions_ioctl.c
	virt/kvm/memslots_update.c virt/kvm/vcpu_gate.c virt/kvm/kvm_main.c
	include/linux/kvm_host.h arch/powerpc/kvm/book3s_hv_uvmem.c"

# Where a file is: the tree has those that are not under test.
path_of()
{
	if [ -e "$SRC/$1" ]; then
		echo "$SRC/$1"
	else
		echo "$KDIR/$1"
	fi
}

# What says so: the first complaint of the tests or of a sanitizer.
complaint()
{
	sed -n 's/^# \(.*\/\)*\([a-z_]*\.[ch]:[0-9]*: .*\)/\2/p
		s/.*AddressSanitizer: \([-a-zA-Z]*\).*/AddressSanitizer: \1/p
		s/.*runtime error: \(.*\)/UBSan: \1/p' "$1" | head -n 1
}

suite()
{
	"$1" --seed 1 --save "" --random 3000 &&
	"$1" --directed &&
	"$1" --seed 2 --save "" --random 50000
}

# Some breaks show on 32-bit only.
narrow()
{
	[ -x "$O/m32/memslots" ] || return 0
	cp -pr "$O/m32" .
	make -s -C "$TESTS" KDIR="$KDIR" SRC="$PWD/src" O="$PWD" \
		"$PWD/m32/memslots" && m32/memslots --directed
}

# one NUMBER: build and test what $dir/NUMBER/edit makes of $dir/NUMBER/file.
one()
{
	cd "$dir/$1" || exit
	{
		read -r name
		read -r file
	} <"what"

	for i in $files; do
		mkdir -p "src/$(dirname "$i")"
		cp -p "$(path_of "$i")" "src/$i"
	done
	sed -f edit "src/$file" >edited
	if cmp -s edited "src/$file"; then
		result="CHANGES NOTHING"
	else
		mv edited "src/$file"
		# what does not depend on the file is not built again
		cp -pr "$O/include" "$O/virt" .
		mkdir asan
		cp -pr "$O/asan/." asan
		if ! make -s -C "$TESTS" KDIR="$KDIR" SRC="$PWD/src" O="$PWD" \
		     "$PWD/asan/memslots" >build.log 2>&1; then
			result="DOES NOT COMPILE"
		elif suite asan/memslots >suite.log 2>&1 &&
		     narrow >suite.log 2>&1; then
			result="SURVIVES"
		else
			result=$(complaint suite.log)
			result="caught: ${result:-dies}"
		fi
	fi
	printf '%-52s %s\n' "$name" "$result" >result
	cat result
	rm -rf asan m32 include virt
}

if [ $# -gt 0 ]; then
	one "$1"
	exit
fi

rm -rf "$dir"
mkdir -p "$dir"
awk -v dir="$dir" -v breaks="$BREAKS" -v RS= -F '\n' '
	{
		sub(/^(#[^\n]*\n)+/, "")
	}
	/^#/ || ($1 "\n" $2) !~ breaks {
		next
	}
	{
		nr = sprintf("%03d", nr + 1)
		system("mkdir " dir "/" nr)
		print nr >(dir "/list")
		for (i = 1; i <= NF; i++)
			print $i >(dir "/" nr (i < 3 ? "/what" : "/edit"))
		close(dir "/" nr "/what")
		close(dir "/" nr "/edit")
	}
' mutations
TESTS=$PWD
export TESTS
xargs -n 1 -P "${JOBS:-2}" ./mutation.sh <"$dir/list"

nr=$(cat "$dir"/*/result | wc -l)
caught=$(cat "$dir"/*/result | grep -c ' caught: ')
echo "$caught of $nr breaks are caught"
[ "$caught" -gt 0 ] && [ "$caught" -eq "$nr" ]
