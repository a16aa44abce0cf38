// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/kvm/<pid>-<fd>/memslots lists the active slots of a VM, by
 * address space and in ascending order of gfns.
 */
#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/seq_file.h>

#include "memslots.h"

/*
 * The position in the file is 0 for the header.  Otherwise it encodes, plus one,
 * the address space and the gfn where to continue the search for slots.  So
 * reading continues in the right place, even if the map has changed since, and
 * does not hold a lock in between.
 */
#define KVM_MEMSLOTS_POS_GFN_BITS	53

struct kvm_memslots_seq {
	struct kvm *kvm;
	int srcu_idx;
};

static void *kvm_memslots_seq_find(struct kvm *kvm, loff_t *pos)
{
	gfn_t gfn = (*pos - 1) & (BIT_ULL(KVM_MEMSLOTS_POS_GFN_BITS) - 1);
	u64 as_id = (u64)(*pos - 1) >> KVM_MEMSLOTS_POS_GFN_BITS;
	struct kvm_memory_slot *slot = NULL;

	for (; as_id < KVM_ADDRESS_SPACE_NUM; as_id++, gfn = 0) {
		slot = kvm_memslot_at_or_above(__kvm_memslots(kvm, as_id), gfn);
		if (slot) {
			*pos = 1 + (as_id << KVM_MEMSLOTS_POS_GFN_BITS) +
			       slot->base_gfn;
			break;
		}
	}
	return slot;
}

static void *kvm_memslots_seq_start(struct seq_file *m, loff_t *pos)
	__acquires(&kvm->srcu)
{
	struct kvm_memslots_seq *seq = m->private;

	seq->srcu_idx = srcu_read_lock(&seq->kvm->srcu);
	return *pos ? kvm_memslots_seq_find(seq->kvm, pos) : SEQ_START_TOKEN;
}

static void *kvm_memslots_seq_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct kvm_memslots_seq *seq = m->private;
	struct kvm_memory_slot *slot = v;

	if (v == SEQ_START_TOKEN)
		*pos = 1;
	else
		*pos += slot->npages;
	return kvm_memslots_seq_find(seq->kvm, pos);
}

static void kvm_memslots_seq_stop(struct seq_file *m, void *v)
	__releases(&kvm->srcu)
{
	struct kvm_memslots_seq *seq = m->private;

	srcu_read_unlock(&seq->kvm->srcu, seq->srcu_idx);
}

static int kvm_memslots_seq_show(struct seq_file *m, void *v)
{
	struct kvm_memory_slot *slot = v;

	if (v == SEQ_START_TOKEN) {
		seq_puts(m, "as_id    id first_gfn        end_gfn          hva              flags\n");
		return 0;
	}

	seq_printf(m, "%5u %5d %016llx %016llx %016lx %05x\n", slot->as_id,
		   slot->id, slot->base_gfn, slot->base_gfn + slot->npages,
		   slot->userspace_addr, slot->flags);
	return 0;
}

static const struct seq_operations kvm_memslots_seq_ops = {
	.start	= kvm_memslots_seq_start,
	.next	= kvm_memslots_seq_next,
	.stop	= kvm_memslots_seq_stop,
	.show	= kvm_memslots_seq_show,
};

static int kvm_memslots_open(struct inode *inode, struct file *file)
{
	struct kvm_memslots_seq *seq;

	seq = __seq_open_private(file, &kvm_memslots_seq_ops, sizeof(*seq));
	if (!seq)
		return -ENOMEM;

	seq->kvm = inode->i_private;
	return 0;
}

static const struct file_operations kvm_memslots_fops = {
	.owner		= THIS_MODULE,
	.open		= kvm_memslots_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= seq_release_private,
};

/**
 * kvm_memslots_create_debugfs - create the debugfs file "memslots"
 * @kvm: the VM, whose debugfs directory exists
 *
 * The file needs no reference to the VM.  kvm_destroy_vm() first removes the
 * directory, which waits for current readers and keeps out new ones.
 *
 * Context: may sleep.
 */
void kvm_memslots_create_debugfs(struct kvm *kvm)
{
	debugfs_create_file("memslots", 0400, kvm->debugfs_dentry, kvm,
			    &kvm_memslots_fops);
}
