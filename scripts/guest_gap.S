/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All vCPUs read the TSC in a loop and record how long an iteration takes (scripts/guest_gap.py). Runs in real mode,
 * in RAM at 0xd8000, which is also the base of ds. There is no other firmware.
 *
 * 0x1000: number of vCPUs that run; 0x1004: ticks from which an iteration counts as a gap; 0x1008: offset of the records
 * of the current window. Each vCPU has a record of 64 bytes: iterations, ticks in gaps, gaps, longest gap, TSC.
 */
	.code16
	.globl	start
start:
	mov	%cs, %ax
	mov	%ax, %ds
	mov	$0x1b, %ecx		/* APIC base: is this the first vCPU? */
	rdmsr
	test	$0x100, %eax
	jz	1f
	or	$0xc00, %eax		/* x2APIC: its registers are MSRs */
	wrmsr
	mov	$0x830, %ecx		/* ICR: INIT, then start at 0xd8000, to all others */
	xor	%edx, %edx
	mov	$0xc4500, %eax
	wrmsr
	mov	$0xc46d8, %eax
	wrmsr
1:	mov	$1, %bp
	lock xadd %bp, 0x1000
	shl	$6, %bp
	rdtsc
	mov	%eax, %esi
2:	mov	0x1008, %di
	add	%bp, %di
	rdtsc
	mov	%eax, %edx
	sub	%esi, %edx
	mov	%eax, %esi
	mov	%eax, 16(%di)
	incl	(%di)
	cmp	0x1004, %edx
	jb	2b
	add	%edx, 4(%di)
	incl	8(%di)
	cmp	12(%di), %edx
	jbe	2b
	mov	%edx, 12(%di)
	jmp	2b
