/* A CUDA allocator for torch.cuda.memory.CUDAPluggableAllocator that writes down what it is asked for.
 *
 * The log is a ring of records in a file that is mapped into memory: what was logged is in the file also after a crash
 * or a kill, and nothing has to be flushed. Behind the ring Python appends lines of text. Blocks that are freed are kept by size and stream and handed out again, as
 * PyTorch's own allocator does, so that a step does not pay for cudaMalloc each time; the log has the requests as they
 * came. No CUDA headers and no CUDA library at link time: the few functions that are used are looked up by name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum kind { EMPTY, ALLOC, FREE, MARK, OUT_OF_MEMORY };

struct record { /* 48 bytes; memgraph/files/hook_log.py reads it */
    uint64_t address; /* of a mark the line of text that says what it means */
    int64_t size;
    uint64_t stream;
    uint64_t time; /* nanoseconds of a clock that only rises */
    int32_t device;
    uint32_t kind;
    _Atomic uint64_t sequence; /* 1, 2, … once the record is whole */
};

struct header { /* 64 bytes */
    char magic[8];
    uint64_t version;
    uint64_t capacity; /* records */
    _Atomic uint64_t written; /* all that were ever begun; beyond `capacity` the oldest were overwritten */
    int64_t limit; /* bytes that may be requested at once, 0 for no limit */
    _Atomic int64_t requested, peak; /* bytes, now and at most: what the overwritten records would say */
    uint64_t reserved;
};

static struct header *head;
static struct record *ring;
static size_t mapped;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int64_t requested, peak, taken;
/* All of these change under the lock; they are atomic for those who look on. */
static char torch_libraries[4096];

static int (*cuda_malloc)(void **, size_t);
static int (*cuda_free)(void *);
static int (*cuda_get_device)(int *);
static int (*cuda_set_device)(int);
static int (*cuda_get_last_error)(void);

/* ---- the log */

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void note(enum kind kind, uint64_t address, int64_t size, int device, void *stream) {
    if (!head) return;
    uint64_t number = atomic_fetch_add(&head->written, 1);
    struct record *record = &ring[number % head->capacity];
    atomic_store_explicit(&record->sequence, 0, memory_order_release);
    record->address = address;
    record->size = size;
    record->stream = (uint64_t)(uintptr_t)stream;
    record->time = now();
    record->device = device;
    record->kind = kind;
    atomic_store_explicit(&record->sequence, number + 1, memory_order_release);
}

/* ---- blocks that were freed, by device, stream and size: a table of lists */

struct block { /* on the host */
    struct block *next;
    void *address;
    size_t size;
    size_t wanted; /* bytes that were asked for */
    void *stream;
    int device;
};

enum { BUCKETS = 1 << 14 };
static struct block *idle[BUCKETS];
static struct block *in_use[BUCKETS];

static size_t rounded(size_t size) { /* as the caching allocator rounds a request */
    size_t step = size < (1u << 20) ? 512 : (2u << 20);
    return (size + step - 1) / step * step;
}

static unsigned bucket_of_kind(size_t size, int device, void *stream) {
    uint64_t mixed = (size >> 9) * 0x9E3779B97F4A7C15u ^ (uint64_t)(uintptr_t)stream ^ (uint64_t)device << 40;
    return (unsigned)(mixed >> 32 ^ mixed) % BUCKETS;
}

static unsigned bucket_of_address(void *address) {
    return (unsigned)(((uint64_t)(uintptr_t)address >> 9) * 0x9E3779B97F4A7C15u >> 40) % BUCKETS;
}

static struct block *take_idle(size_t size, int device, void *stream) {
    for (struct block **place = &idle[bucket_of_kind(size, device, stream)]; *place; place = &(*place)->next) {
        struct block *found = *place;
        if (found->size == size && found->device == device && found->stream == stream) {
            *place = found->next;
            return found;
        }
    }
    return NULL;
}

static struct block *take_in_use(void *address) {
    for (struct block **place = &in_use[bucket_of_address(address)]; *place; place = &(*place)->next) {
        if ((*place)->address == address) {
            struct block *found = *place;
            *place = found->next;
            return found;
        }
    }
    return NULL;
}

static void put(struct block **list, struct block *block) {
    block->next = *list;
    *list = block;
}

static void give_back_idle(void) {
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        while (idle[bucket]) {
            struct block *block = idle[bucket];
            idle[bucket] = block->next;
            cuda_free(block->address); /* waits for the device, so nothing that still runs loses its memory */
            free(block);
        }
    }
}

static struct block *fresh(size_t size, int device, void *stream) {
    struct block *block = malloc(sizeof *block);
    if (!block) return NULL;
    *block = (struct block){NULL, NULL, size, 0, stream, device};
    int before = device;
    if (cuda_get_device) cuda_get_device(&before);
    if (cuda_set_device && before != device) cuda_set_device(device);
    atomic_fetch_add(&taken, 1);
    int failed = cuda_malloc(&block->address, size);
    if (failed) {
        if (cuda_get_last_error) cuda_get_last_error(); /* or the next kernel would report it */
        give_back_idle();
        failed = cuda_malloc(&block->address, size);
        if (failed && cuda_get_last_error) cuda_get_last_error();
    }
    if (cuda_set_device && before != device) cuda_set_device(before);
    if (!failed) return block;
    free(block);
    return NULL;
}

/* ---- failing as PyTorch expects
 *
 * PyTorch does not look whether an allocator returned NULL: it would run kernels on it. It expects c10::OutOfMemoryError,
 * which Python sees as torch.cuda.OutOfMemoryError. Its constructor is exported by libc10, and a C++ exception can be
 * thrown from C through the runtime that libc10 has loaded. (Itanium C++ ABI; libstdc++'s std::string.)
 */

struct source_location { const char *function, *file; uint32_t line; };
struct cxx_string { char *text; size_t length; union { char local[16]; size_t capacity; } room; };

static void *torch_symbol(const char *name) {
    static const char *const libraries[] = {"libc10.so", "libc10_cuda.so", "libtorch_python.so"};
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", torch_libraries, libraries[i]);
        void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
        void *symbol = library ? dlsym(library, name) : NULL;
        if (symbol) return symbol;
    }
    return dlsym(RTLD_DEFAULT, name);
}

#define LOCATION_AND_STRING "C1ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"

static void throw_out_of_memory(const char *message) {
    typedef void construct(void *, struct source_location, struct cxx_string *);
    construct *make = (construct *)torch_symbol("_ZN3c1016OutOfMemoryError" LOCATION_AND_STRING);
    construct *make_base = (construct *)torch_symbol("_ZN3c105Error" LOCATION_AND_STRING);
    char *table = torch_symbol("_ZTVN3c1016OutOfMemoryErrorE"); /* before torch 2.12 only the base's is exported */
    void *type = torch_symbol("_ZTIN3c1016OutOfMemoryErrorE");
    void *(*allocate)(size_t) = (void *(*)(size_t))torch_symbol("__cxa_allocate_exception");
    void (*throw)(void *, void *, void (*)(void *)) = (void (*)(void *, void *, void (*)(void *)))torch_symbol("__cxa_throw");
    if (!(make || (make_base && table)) || !type || !allocate || !throw) { /* end here rather than compute on nothing */
        fprintf(stderr, "memgraph: %s (this torch cannot be told:%s%s%s%s)\n", message, make ? "" : " constructor",
                make_base && table ? "" : " base", type ? "" : " type", allocate && throw ? "" : " runtime");
        abort();
    }
    struct cxx_string text = {malloc(strlen(message) + 1), strlen(message), {.capacity = strlen(message)}};
    strcpy(text.text, message); /* longer than 15 letters, so libstdc++ keeps it outside the object, and moves it */
    void *error = allocate(1024); /* sizeof(c10::OutOfMemoryError) is some 200 */
    struct source_location here = {"memgraph_hook_malloc", "hook.c", __LINE__};
    if (make) {
        make(error, here, &text);
    } else {
        make_base(error, here, &text);
        *(void **)error = table + 2 * sizeof(void *); /* it adds no members: only its virtual functions are its own */
    }
    throw(error, type, NULL);
}

static void refuse(size_t size, int device, int64_t limit) {
    char message[512];
    double gib = 1.0 / (1 << 30);
    int length = snprintf(message, sizeof message, "CUDA out of memory. Tried to allocate %.2f MiB. ",
                          (double)size / (1 << 20));
    if (limit)
        length += snprintf(message + length, sizeof message - length, "GPU %d has a limit of %.2f GiB set by memgraph; ",
                           device, limit * gib);
    snprintf(message + length, sizeof message - length, "%.2f GiB are requested on GPU %d at this moment.",
             atomic_load(&requested) * gib, device);
    throw_out_of_memory(message);
}

/* ---- what PyTorch calls */

static void hold(int64_t total) {
    atomic_store(&requested, total);
    if (total > atomic_load(&peak)) atomic_store(&peak, total);
    if (!head) return;
    atomic_store(&head->requested, total);
    atomic_store(&head->peak, atomic_load(&peak));
}

void *memgraph_hook_malloc(ptrdiff_t wanted, int device, void *stream) {
    if (wanted <= 0) return NULL;
    size_t size = (size_t)wanted;
    pthread_mutex_lock(&lock);
    int64_t total = atomic_load(&requested) + (int64_t)size;
    struct block *block = NULL;
    if (!head || !head->limit || total <= head->limit) {
        block = take_idle(rounded(size), device, stream);
        if (!block) block = fresh(rounded(size), device, stream);
    }
    void *address = block ? block->address : NULL;
    int64_t limit = head ? head->limit : 0;
    if (block) {
        block->wanted = size;
        put(&in_use[bucket_of_address(address)], block);
        hold(total);
        note(ALLOC, (uint64_t)(uintptr_t)address, wanted, device, stream);
    } else {
        note(OUT_OF_MEMORY, 0, wanted, device, stream);
    }
    pthread_mutex_unlock(&lock);
    if (!address) refuse(size, device, limit);
    return address;
}

void memgraph_hook_free(void *address, ptrdiff_t size, int device, void *stream) {
    if (!address) return;
    pthread_mutex_lock(&lock);
    note(FREE, (uint64_t)(uintptr_t)address, size, device, stream);
    hold(atomic_load(&requested) - size);
    struct block *block = take_in_use(address);
    if (block) put(&idle[bucket_of_kind(block->size, block->device, block->stream)], block);
    pthread_mutex_unlock(&lock);
}

/* ---- what memgraph calls */

static void *cuda_symbol(void *library, const char *name) {
    void *symbol = library ? dlsym(library, name) : NULL;
    return symbol ? symbol : dlsym(RTLD_DEFAULT, name);
}

static void look_up(const char *cudart) {
    void *library = cudart && *cudart ? dlopen(cudart, RTLD_NOW | RTLD_GLOBAL) : NULL;
    cuda_malloc = (int (*)(void **, size_t))cuda_symbol(library, "cudaMalloc");
    cuda_free = (int (*)(void *))cuda_symbol(library, "cudaFree");
    cuda_get_device = (int (*)(int *))cuda_symbol(library, "cudaGetDevice");
    cuda_set_device = (int (*)(int))cuda_symbol(library, "cudaSetDevice");
    cuda_get_last_error = (int (*)(void))cuda_symbol(library, "cudaGetLastError");
}

static void forget_log(void) {
    if (head) munmap(head, mapped);
    head = NULL;
    ring = NULL;
}

/* What is in use already, from a recording before this one, comes first. */
static void note_in_use(void) {
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        for (struct block *block = in_use[bucket]; block; block = block->next)
            note(ALLOC, (uint64_t)(uintptr_t)block->address, (int64_t)block->wanted, block->device, block->stream);
    }
}

static void *map_log(const char *log, size_t size) {
    unlink(log); /* not cut short: whoever has it mapped, a recording before this one, would get SIGBUS */
    int file = open(log, O_RDWR | O_CREAT | O_EXCL, 0644);
    if (file < 0) return NULL;
    void *memory = posix_fallocate(file, 0, (off_t)size) /* a full disk is said here, not by a signal later */
                       ? NULL
                       : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

/* 0, or what is wrong: 1 the log cannot be made, 2 there is no CUDA runtime. */
int memgraph_hook_open(const char *log, uint64_t capacity, int64_t limit, const char *cudart, const char *torch_folder) {
    size_t size = sizeof(struct header) + capacity * sizeof(struct record);
    pthread_mutex_lock(&lock);
    look_up(cudart);
    int found = cuda_malloc && cuda_free;
    pthread_mutex_unlock(&lock);
    if (!found) return 2;
    struct header *fresh_head = map_log(log, size);
    if (!fresh_head) return 1;
    memcpy(fresh_head->magic, "memghook", 8);
    fresh_head->version = 2;
    fresh_head->capacity = capacity;
    fresh_head->limit = limit;
    pthread_mutex_lock(&lock);
    forget_log();
    snprintf(torch_libraries, sizeof torch_libraries, "%s", torch_folder ? torch_folder : "");
    mapped = size;
    ring = (struct record *)((char *)fresh_head + sizeof(struct header));
    head = fresh_head;
    atomic_store(&peak, 0);
    hold(atomic_load(&requested));
    note_in_use();
    pthread_mutex_unlock(&lock);
    return 0;
}

/* From here on nothing is logged, and there is no limit. */
void memgraph_hook_close(void) {
    pthread_mutex_lock(&lock);
    forget_log();
    pthread_mutex_unlock(&lock);
}

void memgraph_hook_mark(uint64_t text) {
    pthread_mutex_lock(&lock);
    note(MARK, text, 0, 0, NULL);
    pthread_mutex_unlock(&lock);
}

int64_t memgraph_hook_requested(void) { return atomic_load(&requested); }
int64_t memgraph_hook_peak(void) { return atomic_load(&peak); }
int64_t memgraph_hook_taken(void) { return atomic_load(&taken); } /* calls of cudaMalloc */
