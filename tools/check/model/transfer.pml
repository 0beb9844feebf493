/* SPDX-License-Identifier: MIT */
/*
 * transfer: a buffer is lent, given, given back or returned, and one side has it.
 *
 * One arena of GRANULES granules, its owner and its user.  Both submit operations and
 * answer them, each one operation at a time.  The rings are channels of Promela:
 * ring.pml proves that entries arrive once, whole and in order, and the contents of a
 * buffer are ordered by the stamp of the entry that names it.
 *
 *	owner		evering_alloc() of blocks of any length, evering_free();
 *			arena_hand_out(), arena_give(), arena_take_back(),
 *			arena_come_home(), block_free(), arena_all_home();
 *			evering_op_prepare(), _start(), op_unprepare(), op_abandon(),
 *			op_answered(), op_unlend(), evering_op_answer_buffer();
 *			take_any(), loan_come_home(), ops_end()
 *	user		loan_start(), loan_end(), loan_give_back(), loan_keep(),
 *			ops_free(), loan_attach(), send_home(), and the same of
 *			operations
 *
 * An entry may name a buffer, LENT, GIVEN or BACK, and takes a buffer with it that
 * returns, if there is one.  A buffer that has found no entry returns in an entry of
 * its own, HOME.  Every entry except an answer leaves slots for the answers that may be
 * owed: ops_room().
 *
 * An application may do anything that it may do at any time, or not at all: cancel
 * before the start, abandon after it.  At the end both free what they have, and answer.
 *
 * Proved: the owner and the user may never both use a granule; no check of what arrives
 * fails while both keep the rules; an answer never lacks room; and the only states
 * without a next step are those where every granule is free again, every entry has
 * arrived and every operation has ended.  And with
 *
 *	DEATH	the user may die at any time: all that it had is free again
 *	REPLAY	the user says now and then that something comes home that has done so
 *		before: it never ends what the user was given since.  Until the
 *		GENERATIONS come round, which is after 2^30 times.
 *	HOSTILE	the user sends whatever it likes: it gets hold of nothing that the owner
 *		has, nor of what is lent
 *
 * Each of these must fail:
 *	NO_GENERATION	arena_come_home() does not compare it (REPLAY)
 *	NO_HOLD		nor look whether the block was given (HOSTILE)
 *	NO_LENGTH	nor whether it is so long (HOSTILE)
 *	NO_LOCK		evering_free() does not look whether a block is lent or given
 *	FREE_EARLY	who abandons an operation frees at once what is lent with it
 *	KEEP_WANTED	a buffer comes with an answer that nobody wants any more, and is
 *			not freed
 *	NO_LOAN		ops_free() does not look whether this side has the buffer
 *	NO_LOAN_END	an answer does not end the loan
 *	NO_HOME		what has found no entry to go with does not get one of its own
 *	NO_KEEP		other entries leave no slots for answers
 *	NO_ALL_HOME	ops_end() does not free what the peer was given (DEATH)
 *	NO_UNLEND	nor take back what was lent (DEATH)
 *	UNPREPARED	cancelling an operation before its start drops its buffer
 */
#ifndef GRANULES
#define GRANULES	2
#endif
#ifndef GENERATIONS
#ifdef REPLAY
#define GENERATIONS	4
#else
#define GENERATIONS	2
#endif
#endif
#ifndef SLOTS
#define SLOTS		2
#endif
#define SERVE		1	/* answers that may be owed at a time */

/* Entries, and what is a buffer that they name */
#define REQUEST		1
#define ANSWER		2
#define HOME		3
#define NOTHING		0
#define LENT		1
#define GIVEN		2
#define BACK		3
#define HOMEBOUND	3	/* struct loan.hold alone */

/* Type, buffer and its granule, generation and length; what goes home, from 1 */
chan to_user = [SLOTS] of { byte, byte, byte, byte, byte, byte, byte };
chan to_owner = [SLOTS] of { byte, byte, byte, byte, byte, byte, byte };

/* arena.tag and arena.hold: an owner's block is LENT, GIVEN or neither */
byte length[GRANULES];
byte hold[GRANULES];
byte generation[GRANULES];
bit used[GRANULES];

/* struct loan */
byte loan[GRANULES];
byte loan_generation[GRANULES];
byte loan_length[GRANULES];
chan homebound = [GRANULES + 1] of { byte };

/* Which side may use each granule, as the applications see it */
bit owners[GRANULES];
bit users[GRANULES];

/* An operation of each side: prepared, sent, its outcome still open; its buffer */
bit prepared[2];
bit sent[2];
bit open[2];
byte kinds[2];
byte granule[2];
bit held[2];		/* a request has to be answered */
byte held_granule;	/* the granule of the buffer that is lent with it, from 1 */
bit quiet[2];
bit gone, ended, broken;
#define OWNER	0
#define USER	1

hidden byte i;

#define ALL_FREE	(!used[0] && !used[1] && (GRANULES < 3 || !used[GRANULES - 1]))
#define NONE_ASKED(s)	(!sent[s] && !prepared[s] && !held[s])
#define OVER \
	(quiet[OWNER] && quiet[USER] && ALL_FREE && \
	 NONE_ASKED(OWNER) && NONE_ASKED(USER) && \
	 empty(to_user) && empty(to_owner) && empty(homebound))

#ifdef NO_KEEP
#define ROOM(ring)	nfull(ring)
#else
#define ROOM(ring)	(len(ring) + SERVE < SLOTS)
#endif
/* A hostile user need not be informed. */
#ifdef HOSTILE
#define TELL(entry, kind, g, gen, n)	skip
#else
#define TELL(entry, kind, g, gen, n) \
	assert(nfull(to_user)); \
	to_user ! entry, kind, g, gen, n, 0, 0
#endif
#define CAN_ASK(s)	(!quiet[s] && !prepared[s] && !sent[s] && !ended)

#define EACH(g, n, set) \
	i = g; \
	do \
	:: i < g + n -> set; i++ \
	:: else -> break \
	od; \
	i = 0

/* Both may never use it. */
inline owners_are(g, n, is)
{
#ifdef HOSTILE
	EACH(g, n, owners[i] = is)
#else
	EACH(g, n, assert(!is || !users[i]); owners[i] = is)
#endif
}

inline users_are(g, n, is)
{
	EACH(g, n, assert(!is || !owners[i]); users[i] = is)
}

inline used_are(g, n, is)
{
	EACH(g, n, used[i] = is)
}

/* --------------------------------------------------------------------- arena */

inline take_free(g, n)
{
	length[g] = n;
	used_are(g, n, 1);
	owners_are(g, n, 1)
}

inline block_free(g)
{
	owners_are(g, length[g], 0);
	used_are(g, length[g], 0);
	length[g] = 0;
	hold[g] = NOTHING;
	generation[g] = (generation[g] + 1) % GENERATIONS
}

inline hand_out(g, kind)
{
	owners_are(g, length[g], 0);
	hold[g] = kind
}

inline take_back(g, release)
{
	if
	:: release -> block_free(g)
	:: else ->
		hold[g] = NOTHING;
		owners_are(g, length[g], 1)
	fi
}

#ifdef NO_HOLD
#define IS_GIVEN(g)	true
#else
#define IS_GIVEN(g)	(hold[g] == GIVEN)
#endif
#ifdef NO_GENERATION
#define IS_MEANT(g, gen)	true
#else
#define IS_MEANT(g, gen)	(generation[g] == gen)
#endif
#ifdef NO_LENGTH
#define IS_SO_LONG(g, n)	true
#else
#define IS_SO_LONG(g, n)	(n <= length[g])
#endif
#define COMES_HOME(g, gen, n) \
	(g < GRANULES -> (length[g] && IS_GIVEN(g) && IS_MEANT(g, gen) && \
			  IS_SO_LONG(g, n)) : 0)

/* -EPROTO: a peer that keeps the rules never causes it. */
inline breach()
{
#if !defined(REPLAY) && !defined(HOSTILE)
	assert(false);
#endif
	broken = 1
}

inline come_home(g, gen, n, release)
{
	if
	:: COMES_HOME(g, gen, n) ->
		assert(hold[g] == GIVEN && n <= length[g]);
#ifndef HOSTILE
		assert(!users[g]);
#endif
		take_back(g, release)
	:: else -> breach()
	fi
}

/* --------------------------------------------------------------------- owner */

inline op_unlend()
{
	if
	:: kinds[OWNER] == LENT ->
		take_back(granule[OWNER], !open[OWNER])
	:: else
	fi;
	kinds[OWNER] = 0;
	granule[OWNER] = 0
}

inline owner_takes()
{
	if
	:: hg -> come_home(hg - 1, hgen, 0, true)
	:: else
	fi;
	if
	:: broken
	:: else ->
		if
		:: kind == BACK ->
			/* The caller does not want what it brings. */
			come_home(g, gen, n,
				  entry == ANSWER && !open[OWNER])
		:: kind && kind != BACK -> breach()
		:: else
		fi
	fi;
	if
	:: broken || entry == HOME
	:: else ->
		if
		:: entry == REQUEST && !held[OWNER] -> held[OWNER] = 1
		:: entry == ANSWER && sent[OWNER] ->
			op_unlend();
			sent[OWNER] = 0;
			open[OWNER] = 0
		:: else -> breach()
		fi
	fi;
	entry = 0; kind = 0; g = 0; gen = 0; n = 0; hg = 0; hgen = 0
}

/* The buffer of an operation is locked, and given when it is started. */
inline prepare(what)
{
	hand_out(g, LENT);
	kinds[OWNER] = what;
	granule[OWNER] = g;
	prepared[OWNER] = 1;
	g = 0
}

inline start()
{
	g = granule[OWNER];
	if
	:: !kinds[OWNER] -> TELL(REQUEST, 0, 0, 0, 0)
	:: else ->
		hold[g] = kinds[OWNER];
		TELL(REQUEST, hold[g], g, generation[g], length[g])
	fi;
	if
	:: kinds[OWNER] == GIVEN ->
		kinds[OWNER] = 0;
		granule[OWNER] = 0
	:: else
	fi;
	g = 0;
	prepared[OWNER] = 0;
	sent[OWNER] = 1;
	open[OWNER] = 1
}

inline unprepare()
{
#ifndef UNPREPARED
	if
	:: kinds[OWNER] -> take_back(granule[OWNER], false)
	:: else
	fi;
#endif
	kinds[OWNER] = 0;
	granule[OWNER] = 0;
	prepared[OWNER] = 0
}

inline abandon_owners()
{
	open[OWNER] = 0;
#ifdef FREE_EARLY
	if
	:: kinds[OWNER] == LENT -> block_free(granule[OWNER])
	:: else
	fi;
	kinds[OWNER] = 0;
	granule[OWNER] = 0
#endif
}

/* The peer is gone, and everything that it had sent was taken. */
inline ops_end()
{
#ifndef NO_UNLEND
	if
	:: sent[OWNER] -> op_unlend()
	:: else
	fi;
#endif
	sent[OWNER] = 0;
	open[OWNER] = 0;
	held[OWNER] = 0;
#ifndef NO_ALL_HOME
	do
	:: g < GRANULES ->
		if
		:: length[g] && hold[g] == GIVEN -> block_free(g)
		:: else
		fi;
		g++
	:: else -> break
	od;
	g = 0;
#endif
	ended = 1
}

#ifdef NO_LOCK
#define MAY_FREE(g)	(length[g] && !(hold[g] == LENT && prepared[OWNER]))
#else
#define MAY_FREE(g)	(length[g] && hold[g] == NOTHING)
#endif
#define MAY_HAND_OUT(g)	(length[g] && hold[g] == NOTHING)
#if defined(REPLAY) || defined(HOSTILE)
#define FRESH(g)	(generation[g] < GENERATIONS - 1)
#else
#define FRESH(g)	true
#endif

/* Sets g to one of the granules that @may, if there is any. */
#if GRANULES > 2
#define A_GRANULE(may)	(may(0) || may(1) || may(2))
#define CHOOSE(may) \
	if :: may(0) -> g = 0 :: may(1) -> g = 1 :: may(2) -> g = 2 fi
#else
#define A_GRANULE(may)	(may(0) || may(1))
#define CHOOSE(may) \
	if :: may(0) -> g = 0 :: may(1) -> g = 1 fi
#endif
#define FITS_1(g)	(!used[g] && FRESH(g))
#define FITS_2(g) \
	((g) + 1 < GRANULES -> (!used[g] && !used[((g) + 1) % GRANULES] && FRESH(g)) : 0)


proctype owner()
{
	byte entry, kind, g, gen, n, hg, hgen;

	do
	:: atomic {
			!broken && !ended && nempty(to_owner) ->
			to_owner ? entry, kind, g, gen, n, hg, hgen;
			owner_takes()
		}
	:: atomic { !quiet[OWNER] && !ended && A_GRANULE(FITS_1) ->
			CHOOSE(FITS_1);
			take_free(g, 1);
			g = 0
		}
	:: atomic { !quiet[OWNER] && !ended && A_GRANULE(FITS_2) ->
			CHOOSE(FITS_2);
			take_free(g, 2);
			g = 0
		}
	:: atomic { A_GRANULE(MAY_FREE) ->
			CHOOSE(MAY_FREE);
			block_free(g);
			g = 0
		}
	:: atomic { CAN_ASK(OWNER) -> prepared[OWNER] = 1 }
	:: atomic { CAN_ASK(OWNER) && A_GRANULE(MAY_HAND_OUT) ->
			CHOOSE(MAY_HAND_OUT);
			prepare(LENT)
		}
	:: atomic { CAN_ASK(OWNER) && A_GRANULE(MAY_HAND_OUT) ->
			CHOOSE(MAY_HAND_OUT);
			prepare(GIVEN)
		}
	:: atomic { prepared[OWNER] && !ended && ROOM(to_user) -> start() }
	:: atomic { prepared[OWNER] -> unprepare() }
	:: atomic { open[OWNER] && !ended -> abandon_owners() }
	:: atomic { held[OWNER] ->
			held[OWNER] = 0;
			TELL(ANSWER, 0, 0, 0, 0)
		}
	:: atomic { held[OWNER] && A_GRANULE(MAY_HAND_OUT) ->
			held[OWNER] = 0;
			CHOOSE(MAY_HAND_OUT);
			hand_out(g, GIVEN);
			TELL(ANSWER, GIVEN, g, generation[g], length[g]);
			g = 0
		}
	:: atomic { gone && !ended && empty(to_owner) -> ops_end() }
	:: atomic { !quiet[OWNER] -> quiet[OWNER] = 1 }
	:: OVER || (ended && quiet[OWNER] && ALL_FREE && !prepared[OWNER]) ->
		break
	:: broken -> break
	od
}

/* ---------------------------------------------------------------------- user */

#ifdef HOSTILE
/* It answers, submits and returns anything, one entry at a time. */
proctype user()
{
	byte g, gen, n;

	do
	:: atomic { empty(to_owner) && !broken ->
			select(g : 0 .. GRANULES);
			select(gen : 0 .. GENERATIONS - 1);
			select(n : 1 .. GRANULES + 1);
			if
			:: to_owner ! ANSWER, BACK, g, gen, n, 0, 0
			:: to_owner ! REQUEST, BACK, g, gen, n, 0, 0
			:: n == 1 -> to_owner ! ANSWER, 0, 0, 0, 0, g + 1, gen
			:: n == 1 -> to_owner ! HOME, 0, 0, 0, 0, g + 1, gen
			fi;
			g = 0;
			gen = 0;
			n = 0
		}
	:: broken -> break
	od
}
#else

#define IS_GIVENS(g)	(loan[g] == GIVEN)
#ifdef NO_LOAN
#define MAY_SEND_HOME(g)	(loan[g] && loan[g] != LENT)
#else
#define MAY_SEND_HOME(g)	IS_GIVENS(g)
#endif

inline loan_start(g, gen, n, kind)
{
	assert(g + n <= GRANULES && n && loan[g] == NOTHING);
	loan[g] = kind;
	loan_generation[g] = gen;
	loan_length[g] = n;
	users_are(g, n, 1)
}

inline loan_clear(g)
{
	loan[g] = NOTHING;
	loan_generation[g] = 0;
	loan_length[g] = 0
}

/* ops_free() */
inline send_home_later(g)
{
	users_are(g, loan_length[g], 0);
	loan[g] = HOMEBOUND;
	homebound ! g
}

#ifdef REPLAY
byte old_granule, old_generation;	/* the buffer that returned last, from 1 */
#endif

/* loan_attach() for one buffer; sets what returns with an entry. */
inline loan_attach()
{
	if
	:: homebound ? hg ->
		hgen = loan_generation[hg];
#ifdef REPLAY
		old_granule = hg + 1;
		old_generation = hgen;
#endif
		loan_clear(hg);
		hg++
	:: empty(homebound)
	fi
}

inline send(entry, kind, g, gen, n)
{
	loan_attach();
	to_owner ! entry, kind, g, gen, n, hg, hgen;
	hg = 0;
	hgen = 0
}

/* loan_give_back() */
inline give_back()
{
	gen = loan_generation[g];
	n = loan_length[g];
	users_are(g, n, 0);
	loan_clear(g)
}

inline user_takes()
{
	if
	:: entry == REQUEST ->
		assert(!held[USER]);
		held[USER] = 1;
		if
		:: kind ->
			loan_start(g, gen, n, kind);
			if
			:: kind == LENT -> held_granule = g + 1
			:: else
			fi
		:: else
		fi
	:: else ->
		assert(entry == ANSWER && sent[USER]);
		if
		:: kind ->
			loan_start(g, gen, n, kind);
#ifndef KEEP_WANTED
			if
			:: open[USER]
			:: else -> send_home_later(g)
			fi
#else
			if
			:: open[USER]
			:: else -> loan[g] = LENT	/* neither side has it */
			fi
#endif
		:: else
		fi;
		sent[USER] = 0;
		open[USER] = 0
	fi;
	entry = 0; kind = 0; g = 0; gen = 0; n = 0
}

/* held_end(), after the answer is sent */
inline held_end()
{
	held[USER] = 0;
	if
	:: held_granule ->
		users_are(held_granule - 1, loan_length[held_granule - 1], 0);
#ifndef NO_LOAN_END
		loan_clear(held_granule - 1);
#endif
		held_granule = 0
	:: else
	fi
}

proctype user()
{
	byte entry, kind, g, gen, n, hg, hgen;
	/* What a prepared operation takes back, as its place remembers it. */
	byte named_generation, named_length;

	do
	:: atomic { to_user ? entry, kind, g, gen, n, hg, hgen -> user_takes() }
	:: atomic { A_GRANULE(MAY_SEND_HOME) && nfull(homebound) ->
			CHOOSE(MAY_SEND_HOME);
			send_home_later(g);
			g = 0
		}
	:: atomic { held[USER] ->
			assert(nfull(to_owner));
			send(ANSWER, 0, 0, 0, 0);
			held_end()
		}
	:: atomic { held[USER] && A_GRANULE(IS_GIVENS) ->
			assert(nfull(to_owner));
			CHOOSE(IS_GIVENS);
			give_back();
			send(ANSWER, BACK, g, gen, n);
			held_end();
			g = 0; gen = 0; n = 0
		}
	:: atomic { CAN_ASK(USER) -> prepared[USER] = 1 }
	:: atomic { CAN_ASK(USER) && A_GRANULE(IS_GIVENS) ->
			CHOOSE(IS_GIVENS);
			give_back();
			named_generation = gen;
			named_length = n;
			prepared[USER] = 1;
			kinds[USER] = BACK;
			granule[USER] = g;
			g = 0; gen = 0; n = 0
		}
	:: atomic { prepared[USER] && ROOM(to_owner) ->
			send(REQUEST, kinds[USER], granule[USER],
			     named_generation, named_length);
			prepared[USER] = 0;
			kinds[USER] = 0;
			granule[USER] = 0;
			sent[USER] = 1;
			open[USER] = 1;
			named_generation = 0;
			named_length = 0
		}
	:: atomic { prepared[USER] ->
#ifndef UNPREPARED
			if
			:: kinds[USER] ->
				/* loan_keep() */
				loan_start(granule[USER], named_generation,
					   named_length, GIVEN)
			:: else
			fi;
#endif
			prepared[USER] = 0;
			kinds[USER] = 0;
			granule[USER] = 0;
			named_generation = 0;
			named_length = 0
		}
	:: atomic { open[USER] -> open[USER] = 0 }
#ifndef NO_HOME
	:: atomic { nempty(homebound) && ROOM(to_owner) -> send(HOME, 0, 0, 0, 0) }
#endif
#ifdef REPLAY
	:: atomic { old_granule && !quiet[USER] && ROOM(to_owner) ->
			to_owner ! HOME, 0, 0, 0, 0, old_granule, old_generation
		}
#endif
#ifdef DEATH
	:: atomic { true ->
			gone = 1;
			users_are(0, GRANULES, 0);
			break
		}
#endif
	:: atomic { !quiet[USER] -> quiet[USER] = 1 }
	:: OVER || broken -> break
	od
}
#endif

init {
	atomic {
		run owner();
		run user()
	}
}
