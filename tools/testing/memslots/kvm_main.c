// SPDX-License-Identifier: GPL-2.0-only
/* What is tested of kvm_main.c, which is too large to be compiled here. */
#include <../virt/kvm/memory_regions.h>

#include "extracted_kvm_main.h"
