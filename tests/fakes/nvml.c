/* A stand-in for libnvidia-ml.so.1: the GPUs that the file named by FAKE_NVML describes, read anew at each call, so that
 * a test may change them while programs run. Like the real one it takes no notice of CUDA_VISIBLE_DEVICES.
 *
 *     gpu UUID NAME TOTAL_MIB USED_MIB CORES_HEX ok|lost|divided     CORES_HEX: bit N for CPU core N; 0: not told
 *     mig UUID NAME TOTAL_MIB USED_MIB                               a part of the last gpu
 *     process PID USED_MIB                                           holds memory of the last gpu or mig
 *     fabric BYTE                                                    the last gpu is in the NVLink domain with such bytes
 *
 * With FAKE_NVML_DEVICES=DIR, the n-th GPU is there for programs that may open DIR/nvidiaN: a control group hides the others.
 *
 *     cc -shared -fPIC -o libnvidia-ml.so.1 nvml.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
       GPU_IS_LOST = 15 };
enum { P2P_GPU_NOT_SUPPORTED = 2 };
enum { MAX_DEVICES = 64, MAX_PROCESSES = 16, MAX_PARTS = 7, WORD = 96 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned char domain[16]; unsigned status, clique, state, health; } Fabric;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;

typedef struct {
    char uuid[WORD], name[WORD], state[WORD];
    unsigned long long total, used, cores;
    int parent; /* of a mig: the place of its gpu; of a gpu: -1 */
    unsigned num_processes, fabric; /* fabric 0: none */
    Process processes[MAX_PROCESSES];
} Device;

typedef struct { int is_there, num_devices; Device devices[MAX_DEVICES]; } Machine;

static void add_device(Machine *m, const char *line)
{
    Device *d = &m->devices[m->num_devices];
    memset(d, 0, sizeof *d);
    strcpy(d->state, "ok");
    if (sscanf(line, "gpu %95s %95s %llu %llu %llx %95s", d->uuid, d->name, &d->total, &d->used, &d->cores, d->state) == 6)
        d->parent = -1;
    else if (sscanf(line, "mig %95s %95s %llu %llu", d->uuid, d->name, &d->total, &d->used) == 4)
        for (d->parent = m->num_devices - 1; m->devices[d->parent].parent >= 0; d->parent--)
            ;
    else
        abort();
    m->num_devices++;
}

/* A node without a driver cannot be opened either, but then the reason is another one. */
static int is_hidden(int index)
{
    const char *directory = getenv("FAKE_NVML_DEVICES");
    char path[512];
    if (!directory)
        return 0;
    snprintf(path, sizeof path, "%s/nvidia%d", directory, index);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EPERM;
}

static Machine look(void)
{
    Machine m = { 0 };
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int index = -1; /* of the last gpu, the hidden ones among them */
    while (file && fgets(line, sizeof line, file)) {
        Process p = { 0 };
        unsigned fabric;
        index += !strncmp(line, "gpu ", 4);
        if (is_hidden(index))
            continue;
        if (sscanf(line, "fabric %u", &fabric) == 1)
            m.devices[m.num_devices - 1].fabric = fabric;
        else if (sscanf(line, "process %u %llu", &p.pid, &p.used) == 2) {
            Device *d = &m.devices[m.num_devices - 1];
            p.used <<= 20;
            d->processes[d->num_processes++] = p;
        } else {
            add_device(&m, line);
        }
    }
    m.is_there = file != NULL;
    if (file)
        fclose(file);
    return m;
}

static size_t place_of(void *handle) { return (size_t)handle - 1; }
static void *handle_of(int place) { return (void *)(size_t)(place + 1); }

static int get(void *handle, Device *to)
{
    Machine m = look();
    *to = m.devices[place_of(handle)];
    const Device *whole = to->parent < 0 ? to : &m.devices[to->parent];
    return strcmp(whole->state, "lost") ? OK : GPU_IS_LOST;
}

static int put(char *to, unsigned size, const char *from)
{
    if (strlen(from) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

/* The n-th device whose parent is `parent`; -1 when there are not so many. */
static int nth(const Machine *m, int parent, unsigned n)
{
    for (int i = 0; i < m->num_devices; i++)
        if (m->devices[i].parent == parent && n-- == 0)
            return i;
    return -1;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return look().is_there ? OK : DRIVER_NOT_LOADED; }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int error)
{
    switch (error) {
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    Machine m = look();
    for (*count = 0; nth(&m, -1, *count) >= 0; ++*count)
        ;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    Machine m = look();
    int place = nth(&m, -1, index);
    if (place < 0)
        return INVALID_ARGUMENT;
    *handle = handle_of(place);
    return strcmp(m.devices[place].state, "lost") ? OK : GPU_IS_LOST;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    Machine m = look();
    for (int i = 0; i < m.num_devices; i++)
        if (!strcmp(m.devices[i].uuid, uuid)) {
            Device d;
            *handle = handle_of(i);
            return get(*handle, &d);
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *to, unsigned size)
{
    Device d;
    int error = get(handle, &d);
    return error ? error : put(to, size, d.uuid);
}

int nvmlDeviceGetName(void *handle, char *to, unsigned size)
{
    Device d;
    int error = get(handle, &d);
    return error ? error : put(to, size, d.name);
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory)
{
    Device d;
    int error = get(handle, &d);
    *memory = (Memory){ d.total << 20, (d.total - d.used) << 20, d.used << 20 };
    return error;
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return put(to, size, "570.86.15"); }

/* GPUs of one name can read each other's memory, others cannot. */
int nvmlDeviceGetP2PStatus(void *one, void *other, int index, int *status)
{
    Device a, b;
    int error = get(one, &a);
    (void)index;
    if (!error)
        error = get(other, &b);
    if (!error)
        *status = strcmp(a.name, b.name) ? P2P_GPU_NOT_SUPPORTED : OK;
    return error;
}

int nvmlDeviceGetGpuFabricInfoV(void *handle, Fabric *fabric)
{
    Device d;
    int error = get(handle, &d);
    memset(fabric->domain, (int)d.fabric, sizeof fabric->domain);
    fabric->state = 3; /* completed */
    return error ? error : d.fabric ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    Device d;
    int error = get(handle, &d);
    *current = *pending = !strcmp(d.state, "divided");
    return error;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { (void)handle; *count = MAX_PARTS; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **part)
{
    Machine m = look();
    int place = nth(&m, (int)place_of(handle), index);
    *part = handle_of(place);
    return place < 0 ? NOT_FOUND : OK;
}

int nvmlDeviceGetCpuAffinity(void *handle, unsigned num_words, unsigned long *words)
{
    Device d;
    int error = get(handle, &d);
    memset(words, 0, num_words * sizeof *words);
    words[0] = d.cores;
    return error ? error : d.cores ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *to)
{
    Device d;
    int error = get(handle, &d);
    unsigned room = *count;
    *count = d.num_processes;
    if (error || room < d.num_processes)
        return error ? error : INSUFFICIENT_SIZE;
    memcpy(to, d.processes, d.num_processes * sizeof *to);
    return OK;
}
