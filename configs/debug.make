# SPDX-License-Identifier: GPL-2.0
# Variables for make with CONFIG=debug, a line each. $(obj) is the directory that kbuild is in.
KASAN_SANITIZE=$(if $(filter virt/% arch/x86/kvm arch/x86/kvm/% arch/arm64/kvm arch/arm64/kvm/% lib kernel/rcu,$(obj)),y,n)
