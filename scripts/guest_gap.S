/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Each vCPU sets its APIC timer, halts, and records how long it took until it runs again (scripts/guest_gap.py). Runs in
 * real mode, in RAM at 0xd8000, which is also the base of ds and ss. There is no other firmware.
 *
 * 0x1000: number of vCPUs that run; 0x1004: ticks of the timer; 0x1008: offset and segment of the records of the current
 * window. Each vCPU has a record of 64 bytes: sleeps, ticks they took in all, longest one, TSC.
 */
	.code16
	.globl	start
start:
	jmp	1f
timer:					/* at 2: vector 0x20 */
	iret
1:	mov	%cs, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	xor	%edx, %edx
	mov	$0x1b, %ecx		/* APIC base: x2APIC, its registers are MSRs */
	rdmsr
	or	$0xc00, %eax
	wrmsr
	xor	%edx, %edx
	test	$0x100, %eax		/* is this the first vCPU? */
	jz	1f
	mov	$0x830, %ecx		/* ICR: INIT, then start at 0xd8000, to all others */
	mov	$0xc4500, %eax
	wrmsr
	mov	$0xc46d8, %eax
	wrmsr
1:	mov	$1, %bp
	lock xadd %bp, 0x1000
	shl	$6, %bp
	lea	0xe000(%bp), %sp
	mov	$0x80f, %ecx		/* enable */
	mov	$0x1ff, %eax
	wrmsr
	mov	$0x83e, %ecx		/* the timer: undivided, once, vector 0x20 */
	mov	$0xb, %eax
	wrmsr
	mov	$0x832, %ecx
	mov	$0x20, %eax
	wrmsr
	rdtsc
	mov	%eax, %esi
2:	xor	%edx, %edx
	mov	0x1004, %eax
	mov	$0x838, %ecx		/* go */
	wrmsr
	sti
	hlt
	cli
	xor	%eax, %eax
	mov	$0x80b, %ecx		/* EOI */
	wrmsr
	les	0x1008, %di
	add	%bp, %di
	rdtsc
	mov	%eax, %edx
	sub	%esi, %edx
	mov	%eax, %esi
	mov	%eax, %es:12(%di)
	incl	%es:(%di)
	add	%edx, %es:4(%di)
	cmp	%es:8(%di), %edx
	jbe	2b
	mov	%edx, %es:8(%di)
	jmp	2b
