/* A team of threads that runs one function together, with a barrier between its phases and shares of work, from which one helps another.

   Where torch brings GNU's OpenMP the team is torch's own, handed over by `dunwu_use_team`: a second set of threads would fight
   with the first, which spins for milliseconds after each of torch's products. Elsewhere: threads made here, which sleep after a
   short spin. */
#ifndef DUNWU_TEAM_H
#define DUNWU_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MOST_THREADS 64
#define SPINS 20000      /* before a thread sleeps */
#define BARRIER_SPINS 300 /* before it gives way: the one it waits for may want this very core */

typedef struct Team Team;
typedef void (*Work)(void *what, Team *team, int thread);

struct Team {
    Work work;
    void *what;
    int threads; /* how many take part */
    atomic_int waiting, phase;
};

INLINE void breathe(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Wait until all of the team are here, and meanwhile bring `bytes` from `next` on into the second cache. */
static void barrier_before(Team *team, const void *next, int64_t bytes) {
    if (team->threads == 1) return;
    const char *line = next, *end = line + bytes;
    int phase = atomic_load_explicit(&team->phase, memory_order_relaxed);
    if (atomic_fetch_add(&team->waiting, 1) == team->threads - 1) {
        atomic_store_explicit(&team->waiting, 0, memory_order_relaxed);
        atomic_store_explicit(&team->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spins++) {
        if (line < end) __builtin_prefetch(line, 0, 2), line += 64, spins = 0;
        else if (spins < BARRIER_SPINS) breathe();
        else sched_yield();
    }
}

static void barrier(Team *team) { barrier_before(team, 0, 0); }

/* The items of a phase are shared out evenly, neighbours together. A share says how many of its items were taken from the front, in
   the upper half, and from the end, in the lower. */
typedef _Atomic uint64_t Share;

typedef struct {
    int64_t first, count;
} Items;

INLINE int64_t share_of(int64_t items, int threads, int thread) { return items * thread / threads; }

/* The next items for this thread, none at the end: three quarters of what is left of its own share, at most `most`; then others'
   last ones. */
static Items take(Share *shares, int threads, int thread, int64_t items, int64_t most) {
    for (int t = 0; t < threads; t++) {
        const int whose = (thread + t) % threads;
        const int64_t first = share_of(items, threads, whose), size = share_of(items, threads, whose + 1) - first;
        uint64_t taken = atomic_load_explicit(shares + whose, memory_order_relaxed);
        for (;;) {
            const int64_t front = taken >> 32, back = taken & UINT32_MAX, left = size - front - back;
            if (left <= 0) break;
            const int64_t part = (3 * left + 3) / 4, count = t ? 1 : part < most ? part : most;
            const uint64_t now = t ? taken + 1 : taken + ((uint64_t)count << 32);
            if (atomic_compare_exchange_weak_explicit(shares + whose, &taken, now, memory_order_relaxed, memory_order_relaxed))
                return (Items){t ? first + size - back - 1 : first + front, count};
        }
    }
    return (Items){0, 0};
}

/* The next of items that are taken one by one, in order, from a single share; -1 at the end. */
static int64_t take_next(Share *share, int64_t items) {
    const int64_t next = (int64_t)atomic_fetch_add_explicit(share, 1, memory_order_relaxed);
    return next < items ? next : -1;
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel parallel;
static int (*size_of_team)(void), (*number_in_team)(void);

/* GNU OpenMP's GOMP_parallel, omp_get_num_threads and omp_get_thread_num, of the copy that torch has loaded. */
void dunwu_use_team(void *parallel_, void *size_, void *number_) {
    parallel = (Parallel)parallel_;
    size_of_team = (int (*)(void))size_;
    number_in_team = (int (*)(void))number_;
}

static void enter(void *team_) {
    Team *team = team_;
    team->threads = size_of_team(); /* it may have given fewer than were asked for; all write the same */
    team->work(team->what, team, number_in_team());
}

/* Threads of our own: `order` counts the calls; a worker takes part in each call that is for so many threads. */
static struct {
    pthread_mutex_t turn, lock;
    pthread_cond_t called, done;
    Team *team;
    atomic_uint order;
    int workers, busy;
} own = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0};

static void *worker(void *number_) {
    int number = (int)(intptr_t)number_;
    unsigned seen = 0;
    for (;;) {
        for (int spins = 0; spins < SPINS && atomic_load_explicit(&own.order, memory_order_relaxed) == seen; spins++) breathe();
        pthread_mutex_lock(&own.lock);
        while (own.order == seen) pthread_cond_wait(&own.called, &own.lock);
        seen = own.order;
        Team *team = own.team && number < own.team->threads ? own.team : 0;
        pthread_mutex_unlock(&own.lock);
        if (!team) continue;
        team->work(team->what, team, number);
        pthread_mutex_lock(&own.lock);
        if (--own.busy == 0) pthread_cond_signal(&own.done);
        pthread_mutex_unlock(&own.lock);
    }
    return 0;
}

static void run_own(Team *team) {
    pthread_mutex_lock(&own.turn);
    pthread_mutex_lock(&own.lock);
    while (own.workers < team->threads - 1) {
        pthread_t made;
        if (pthread_create(&made, 0, worker, (void *)(intptr_t)(own.workers + 1))) break;
        pthread_detach(made);
        own.workers++;
    }
    if (own.workers < team->threads - 1) team->threads = own.workers + 1;
    own.team = team;
    own.busy = team->threads - 1;
    own.order++;
    pthread_cond_broadcast(&own.called);
    pthread_mutex_unlock(&own.lock);
    team->work(team->what, team, 0);
    pthread_mutex_lock(&own.lock);
    while (own.busy) pthread_cond_wait(&own.done, &own.lock);
    own.team = 0;
    pthread_mutex_unlock(&own.lock);
    pthread_mutex_unlock(&own.turn);
}

/* A child of fork has none of its parent's threads. */
static void forget_workers(void) {
    own.workers = own.busy = 0;
    own.team = 0;
    pthread_mutex_init(&own.turn, 0);
    pthread_mutex_init(&own.lock, 0);
    pthread_cond_init(&own.called, 0);
    pthread_cond_init(&own.done, 0);
}

__attribute__((constructor)) static void at_start(void) { pthread_atfork(0, 0, forget_workers); }

static void run_team(Work work, void *what, int threads) {
    Team team = {.work = work, .what = what, .threads = threads < MOST_THREADS ? threads : MOST_THREADS};
    if (threads <= 1) work(what, &team, 0);
    else if (parallel) parallel(enter, &team, (unsigned)team.threads, 0);
    else run_own(&team);
}

#endif
