/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The gate between vCPUs and guest memory, virt/kvm/vcpu_gate.c, for spin.
 *
 * Two vCPUs, a holder, someone who creates the second vCPU, and a VMM that now
 * and then serves a page fault of the first vCPU, or of an ioctl that reads guest
 * memory, only when it has stopped the second one.  What a processor writes waits
 * in a buffer for as long as it pleases, and gets to memory in any order but that
 * which a release asks for; a full barrier waits until the buffer is empty; what is
 * read without acquire may have been read earlier.  RCU promises this much: a
 * section that does not see what was written before a grace period is over when
 * that ends, and what it wrote can be seen then.
 *
 * To be shown: no vCPU is inside while they are held, each side sees what the
 * other one did before, and nobody waits for ever.  Each of the mutations is a
 * -D that takes away something that this hangs on:
 *
 * MUTATIONS: NO_GRACE_PERIOD NO_SECTION_IN NO_SECTION_OUT NO_MB_WAIT
 * MUTATIONS: NO_MB_CLOSED NO_MB_WAKE NO_MB_SLEEP NO_RELEASE_OUT
 * MUTATIONS: NO_ACQUIRE_OUT NO_RELEASE_OPEN NO_ACQUIRE_IN NO_SECOND_LOOK
 * MUTATIONS: NO_REQUEST NO_OWN_REQUEST NO_FINISH NO_WAKE_HOLDER NO_WAKE_OPEN
 * MUTATIONS: NO_WAKE_CLOSING NO_LOCK_REENTER NO_LET_FINISH FD_BEFORE_ONLINE
 */
#ifndef VCPUS
#define VCPUS	1	/* or 2, but then without what is in guest memory */
#endif
#ifndef RUNS
#define RUNS	1	/* how often each vCPU is run */
#endif
#ifndef HOLDS
#define HOLDS	1	/* how often they are held */
#endif

#define OPEN	0
#define WATCHED	1
#define CLOSING	2
#define CLOSED	3

/* What is in memory. */
byte state = OPEN;
bool in_gate[2], request[2], queued[2];
bool online = false, file = false;	/* of the second vCPU */
bool task = false, asleep = false;	/* of the holder */
bool lock = false;			/* kvm->slots_lock */
bit map = 0, memory_of_guest = 0;

/* What is on its way there: 0 is nothing, v + 1 is the value v. */
byte b_state = 0, b_in_gate[2], b_task = 0;
bool b_online = false, b_map = false, b_guest[2];
bool b_in_section[2];			/* b_in_gate was written in a section */

bool section[2];

/* What no processor can see. */
bool held = false, inside[2];
bit map_written = 0, guest_written = 0;
bool user[2] = true;			/* in user space, with nothing to finish */
byte stopping = 0;			/* the VMM stops the second vCPU */

#ifdef NO_RELEASE_OPEN
#define MAY_OPEN	true
#else
#define MAY_OPEN	(!b_map)
#endif
#ifdef NO_RELEASE_OUT
#define MAY_BE_OUT(i)	true
#else
#define MAY_BE_OUT(i)	(b_in_gate[i] != 1 || !b_guest[i])
#endif

active proctype buffers()
{
end:
	do
	:: d_step { b_state && MAY_OPEN -> state = b_state - 1; b_state = 0 }
	:: d_step { b_map -> map = 1 - map; b_map = false }
	:: d_step { b_task -> task = b_task - 1; b_task = 0 }
	:: d_step { b_online -> online = true; b_online = false }
	:: d_step { b_in_gate[0] && MAY_BE_OUT(0) ->
		    in_gate[0] = b_in_gate[0] - 1; b_in_gate[0] = 0 }
	:: d_step { b_in_gate[1] && MAY_BE_OUT(1) ->
		    in_gate[1] = b_in_gate[1] - 1; b_in_gate[1] = 0 }
	:: d_step { b_guest[0] ->
		    memory_of_guest = 1 - memory_of_guest; b_guest[0] = false }
	:: d_step { b_guest[1] ->
		    memory_of_guest = 1 - memory_of_guest; b_guest[1] = false }
	od
}

/* ---------------------------------------------------------------- vCPUs */

#define mb(i)	(!b_in_gate[i] && !b_guest[i])

/* With @in_section, the section ends where the state is read. */
inline set_in_gate(i, v, in_section)
{
	atomic {
		!b_in_gate[i];
		b_in_gate[i] = v + 1;
		b_in_section[i] = in_section;
		section[i] = in_section
	}
}

#ifdef NO_SECTION_IN
#define SECTION_IN	false
#else
#define SECTION_IN	true
#endif
#ifdef NO_SECTION_OUT
#define SECTION_OUT	false
#else
#define SECTION_OUT	true
#endif

#ifdef NO_FINISH
#define admits(s, finish)	(s <= WATCHED)
#else
#define admits(s, finish)	(s <= WATCHED || (finish && s == CLOSING))
#endif

/* A signal does not count for who has something to finish. */
#define signal(i, finish)	(i == 1 && stopping && !finish)

inline come_in(i)
{
	assert(!held);
	inside[i] = true
}

/* rcuwait_wake_up() */
inline wake_holder(i)
{
#ifndef NO_MB_WAKE
	mb(i);
#endif
#ifndef NO_WAKE_HOLDER
	d_step {
		if
		:: task -> asleep = false
		:: else
		fi
	}
#else
	skip
#endif
}

/* kvm_vcpu_gate_leave() */
inline leave(i)
{
	inside[i] = false;
	set_in_gate(i, 0, SECTION_OUT);
	d_step { s = state; section[i] = false };
	if
	:: s != OPEN -> s = 0; wake_holder(i)
	:: else
	fi
}

/* Guest memory: the map is what the last holder has made it. */
inline use_memory(i)
{
#if VCPUS == 1
#ifdef NO_ACQUIRE_IN
	assert(early == map_written);
#else
	assert(map == map_written);
#endif
	atomic {
		!b_guest[i];
		b_guest[i] = true;
		guest_written = 1 - guest_written
	}
#else
	skip
#endif
}

/* What is read of the map before the gate is, if nothing forbids it. */
inline read_early()
{
#ifdef NO_ACQUIRE_IN
	early = map
#else
	skip
#endif
}

/* In, if the gate admits it; FD_BEFORE_ONLINE looks at that first. */
inline come_in_if(i, admitted)
{
	atomic {
		s = state;
		section[i] = false;
#ifndef FD_BEFORE_ONLINE
		if
		:: admitted -> in = true; come_in(i)
		:: else
		fi
#endif
	};
#ifdef FD_BEFORE_ONLINE
	atomic {
		if
		:: admitted && (i == 0 || online) -> in = true; come_in(i)
		:: else
		fi
	}
#endif
}

proctype vcpu(byte i)
{
	bool in, finish, forever;
	byte s, runs = 0;
#ifdef NO_ACQUIRE_IN
	bit early;
#endif

	atomic {
		(i == 0 || file);
		if
		:: finish = true; user[i] = false
		:: finish = false
		fi
	};
next:
	atomic {
		if
		:: runs == RUNS -> user[i] = true; goto done
		:: else -> runs++
		fi
	};
	/* The VMM does not run who has stopped, unless to finish something. */
	atomic {
		(i == 0 || !stopping || finish);
		user[i] = false
	};

enter:	/* kvm_vcpu_gate_enter() */
	in = false;
	read_early();
	set_in_gate(i, 1, SECTION_IN);
	come_in_if(i, s == OPEN);

	/* kvm_vcpu_gate_wait() */
	do
	:: in -> break
	:: else ->
#ifndef NO_MB_WAIT
		mb(i);
#endif
		read_early();
		come_in_if(i, admits(s, finish));
		if
		:: in ->
#ifndef NO_OWN_REQUEST
			if
			:: s == CLOSING -> request[i] = true
			:: else
			fi;
#endif
			s = 0;
			break
		:: else
		fi;

		s = 0;
		set_in_gate(i, 0, false);
		wake_holder(i);
		/* wait_event() */
		do
		:: queued[i] = true;
			if
			:: admits(state, finish) -> queued[i] = false; break
			:: else
			fi;
			if
			:: !queued[i]
			:: signal(i, finish) -> queued[i] = false; goto out
			fi
		od;
#ifdef FD_BEFORE_ONLINE
		(i == 0 || online);
#endif
		set_in_gate(i, 1, false)
	od;

	use_memory(i);
	if
	:: finish ->
		finish = false;
		if
		:: i == 1 && stopping -> leave(i); goto out
		:: else
		fi
	:: else
	fi;

	/* The guest: until it exits by itself, or does not. */
	if
	:: forever = true
	:: forever = false
	:: i == 0 ->
		/* a page fault; the VMM stops the other vCPU first */
		stopping++;
		user[1];
		stopping--;
		forever = false
#if VCPUS == 1
	:: i == 0 ->
		/* something that needs kvm->slots_lock */
		leave(i);
#ifndef NO_LOCK_REENTER
		atomic { !lock; lock = true };
#endif
		set_in_gate(i, 1, false);
		come_in(i);
		!b_in_gate[i];
#ifndef NO_LOCK_REENTER
		lock = false;
#endif
		forever = false
#endif
	fi;
end_guest:
	if
	:: request[i] -> request[i] = false; leave(i); goto enter
	:: !forever -> leave(i);
		if
		:: finish = true
		:: finish = false
		fi
	:: i == 1 && stopping -> leave(i)
	fi;

out:	/* of KVM_RUN */
	atomic {
		s = 0;
		in = false;
		forever = false;
		if
		:: !finish -> user[i] = true
		:: else
		fi
	};
	goto next;
done:
	skip
}

/* ---------------------------------------------------------------- the others */

/* kvm_vm_ioctl_create_vcpu(); a file descriptor is installed with a release. */
proctype creator()
{
#ifdef FD_BEFORE_ONLINE
	file = true;
	b_online = true
#else
	b_online = true;
	!b_online;
	file = true
#endif
}

#define mb_holder()	(!b_state && !b_map && !b_task)

inline set_state(v)
{
	atomic { !b_state; b_state = v + 1 }
}

/* The result is in "out"; what is read of guest memory may be read before. */
inline all_out()
{
#ifdef NO_ACQUIRE_OUT
	early = memory_of_guest;
#endif
	out = !in_gate[0];
	if
	:: out && online -> out = !in_gate[1]
	:: else
	fi
}

inline wake_vcpus()
{
	d_step { queued[0] = false; queued[1] = false }
}

proctype holder()
{
	bool out, killed;
	byte holds = 0;
#ifdef NO_ACQUIRE_OUT
	bit early;
#endif

next:
	if
	:: holds == HOLDS -> goto done
	:: else -> holds++
	fi;
	if
#if VCPUS == 1
	:: killed = true
#endif
	:: killed = false
	fi;
	atomic { !lock; lock = true };

	/* kvm_vcpus_hold() */
	set_state(WATCHED);
#ifndef NO_GRACE_PERIOD
	mb_holder();
	(!section[0] && !(b_in_gate[0] && b_in_section[0]));
	(!section[1] && !(b_in_gate[1] && b_in_section[1]));
#endif

	do
	::	set_state(CLOSING);
#ifndef NO_WAKE_CLOSING
		/* the lock of the queue */
		!b_state;
		wake_vcpus();
#endif
		/* kvm_make_request() has a write barrier */
		!b_state;
#ifndef NO_REQUEST
		request[0] = true;
		if
		:: online -> request[1] = true
		:: else
		fi;
#endif

		/* rcuwait_wait_event() */
		atomic { !b_task; b_task = 2 };
		do
		::	asleep = true;
#ifndef NO_MB_SLEEP
			mb_holder();
#endif
			all_out();
			if
			:: out -> break
			:: else
			fi;
			if
			:: !asleep
			:: killed -> break
			fi
		od;
		asleep = false;
		atomic { !b_task; b_task = 1 };
		if
		:: !out -> goto release
		:: else
		fi;

		set_state(CLOSED);
#ifdef NO_SECOND_LOOK
		mb_holder();
		break;
#endif
#ifndef NO_MB_CLOSED
		mb_holder();
#endif
		all_out();
		if
		:: out -> break
		:: else
		fi
	od;

	atomic {
		held = true;
		assert(!inside[0] && !inside[1]);
#ifdef NO_ACQUIRE_OUT
		assert(early == guest_written);
#else
		assert(memory_of_guest == guest_written);
#endif
	};
#if VCPUS == 1
	atomic { !b_map; b_map = true; map_written = 1 - map_written };
#endif
	held = false;

	/* kvm_vcpus_let_finish() */
#ifndef NO_LET_FINISH
	set_state(CLOSING);
	!b_state;
	wake_vcpus();
#endif
	/* wait for readers: one has a page fault; the VMM stops the other vCPU first */
	if
	:: stopping++;
		user[1];
		stopping--
	:: true
	fi;

release: /* kvm_vcpus_release() */
	set_state(OPEN);
#ifndef NO_WAKE_OPEN
	!b_state;
	wake_vcpus();
#endif
	/* what was written under a lock is seen by the next who takes it */
	!b_state && !b_task;
	lock = false;
	goto next;
done:
	skip
}

init {
	atomic {
		run vcpu(0);
#if VCPUS == 2
		run vcpu(1);
		run creator();
#endif
		run holder()
	}
}
