/* fiber.cc - CUDA threads as fibers of one OS thread: the switch of stacks, the ready queue with
 * its orders, waiting, and the report when nobody can go on. x86-64 only: six saved registers and a
 * return. Thread: the worker's. */
#include "runtime.h"

#include <cstdlib>

#ifndef __x86_64__
#error "the fibers of tests/cuemu switch stacks on x86-64 only"
#endif

extern "C" void cuemu_switch(void **save_sp, void *to_sp);
asm(".text\n"
    ".globl cuemu_switch\n"
    ".type cuemu_switch,@function\n"
    "cuemu_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size cuemu_switch, .-cuemu_switch\n");

namespace cuemu
{

__thread thread_view *current;
__thread worker *me_worker;

/* At the first instruction of a function the stack pointer is 8 modulo 16. */
void *stack_prepare(char *stack, void (*entry)())
{
    void **sp = reinterpret_cast<void **>(stack + STACK_BYTES - 64);
    *--sp = nullptr;
    *--sp = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) {
        *--sp = nullptr;
    }
    return sp;
}

uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void push_front(worker *w, fiber *f)
{
    f->next = w->head;
    w->head = f;
    if (f->next == nullptr) {
        w->tail = f;
    }
}

void make_ready(fiber *f)
{
    worker *w = me_worker;
    if (conf().order >= 2 && (next_random(&w->random) & 1) != 0) {
        push_front(w, f);
        return;
    }
    f->next = nullptr;
    if (w->head == nullptr) {
        w->head = f;
    } else {
        w->tail->next = f;
    }
    w->tail = f;
}

static fiber *reversed(fiber *list)
{
    fiber *out = nullptr;
    while (list != nullptr) {
        fiber *next = list->next;
        list->next = out;
        out = list;
        list = next;
    }
    return out;
}

void make_all_ready(fiber **waiting)
{
    fiber *f = conf().order == 1 ? *waiting : reversed(*waiting);
    *waiting = nullptr;
    while (f != nullptr) {
        fiber *next = f->next;
        make_ready(f);
        f = next;
    }
}

fiber *take_ready()
{
    worker *w = me_worker;
    fiber *f = w->head;
    if (f != nullptr) {
        w->head = f->next;
        if (w->head == nullptr) {
            w->tail = nullptr;
        }
    }
    return f;
}

void switch_fiber(fiber *from, fiber *to)
{
    if (from == to) {
        return;
    }
    worker *w = me_worker;
    void **save = from != nullptr ? &from->sp : &w->main_sp;
    void **fake = from != nullptr ? &from->fake_stack : &w->main_fake;
    current = to;
    race_fiber_switch(to != nullptr ? to->race_fiber : w->main_race_fiber);
    stack_switch_begin(fake, to != nullptr ? to->stack : w->stack_bottom,
                       to != nullptr ? (size_t)STACK_BYTES : w->stack_bytes);
    cuemu_switch(save, to != nullptr ? to->sp : w->main_sp);
    stack_switch_end(*fake);
}

bool same_place(place a, place b)
{
    return a.line == b.line && strcmp(a.file, b.file) == 0;
}

void report_deadlock(const block *b)
{
    fprintf(stderr, "cuemu: deadlock in a block; threads still waiting:\n");
    int shown = 0;
    for (int i = 0; i < b->n_threads && shown < 8; i++) {
        const fiber *f = me_worker->fibers[(size_t)i];
        if (!f->dead) {
            fprintf(stderr, "  thread %u,%u,%u in %s at %s:%d\n", f->tid.x, f->tid.y, f->tid.z,
                    f->waits_for, f->at.file, f->at.line);
            shown++;
        }
    }
    abort();
}

void wait_in(fiber **list, const char *what, place at)
{
    fiber *me = self();
    me->at = at;
    me->waits_for = what;
    me->next = *list;
    *list = me;
    fiber *next = take_ready();
    if (next == nullptr) {
        report_deadlock(me->blk);
    }
    switch_fiber(me, next);
}

} // namespace cuemu
