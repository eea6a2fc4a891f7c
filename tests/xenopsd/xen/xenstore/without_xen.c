// SPDX-License-Identifier: Apache-2.0
// Preloaded into xenstored and oxenstored, lets them run on a machine without Xen: every domain exists, its page is empty,
// its event channel is silent, and what the daemons keep under /run or find under /proc/xen is in the directory $XENSTORE_DIR.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096
#define PATH_SIZE 4096
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int handle;
static unsigned int next_port = 1;

static void *page(void)
{
    void *it = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return it == MAP_FAILED ? NULL : it;
}

// libxenctrl: a domain is its own number and nothing else; only the first words of these structures are looked at.
void *xc_interface_open(void *logger, void *dom_logger, unsigned int flags) { return &handle; }
int xc_interface_close(void *it) { return 0; }
int xc_domain_getinfo(void *it, uint32_t first, unsigned int most, void *info)
{
    memset(info, 0, 12);
    memcpy(info, &first, sizeof first);
    return 1;
}
int xc_domain_getinfolist(void *it, uint32_t first, unsigned int most, void *info)
{
    uint16_t domid = first;
    memset(info, 0, 8);
    memcpy(info, &domid, sizeof domid);
    return 1;
}
void *xc_map_foreign_range(void *it, uint32_t domid, int size, int prot, unsigned long frame) { return page(); }

void *xengnttab_open(void *logger, unsigned int flags) { return &handle; }
int xengnttab_close(void *it) { return 0; }
int xengnttab_set_max_grants(void *it, uint32_t most) { return 0; }
void *xengnttab_map_grant_ref(void *it, uint32_t domid, uint32_t reference, int prot) { return page(); }
int xengnttab_unmap(void *it, void *where, uint32_t count) { return munmap(where, PAGE); }

void *xenevtchn_open(void *logger, unsigned int flags) { return &handle; }
void *xenevtchn_fdopen(void *logger, int fd, unsigned int flags) { return &handle; }
int xenevtchn_close(void *it) { return 0; }
int xenevtchn_fd(void *it)
{
    static int fd = -1;
    return fd >= 0 ? fd : (fd = eventfd(0, EFD_CLOEXEC));
}
int xenevtchn_notify(void *it, uint32_t port) { return 0; }
int xenevtchn_bind_interdomain(void *it, uint32_t domid, uint32_t port) { return next_port++; }
int xenevtchn_bind_virq(void *it, unsigned int virq) { return next_port++; }
int xenevtchn_unbind(void *it, uint32_t port) { return 0; }
int xenevtchn_pending(void *it) { return -1; }
int xenevtchn_unmask(void *it, uint32_t port) { return 0; }

// An ordinary user may not raise limits.
int setrlimit(__rlimit_resource_t what, const struct rlimit *limit) { return 0; }

// Files: /run/xenstored, /var/run/xenstored and /proc/xen are $XENSTORE_DIR.
static const char *moved(const char *path, char *buffer, size_t size)
{
    static const char *const places[] = {"/run/xenstored", "/var/run/xenstored", "/proc/xen"};
    const char *directory = getenv("XENSTORE_DIR");
    for (unsigned int i = 0; path && directory && i < sizeof places / sizeof *places; i++) {
        size_t length = strlen(places[i]);
        if (!strncmp(path, places[i], length) && (path[length] == '/' || !path[length])) {
            snprintf(buffer, size, "%s%s", directory, path + length);
            return buffer;
        }
    }
    return path;
}

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...)                                  \
    {                                                                           \
        char buffer[PATH_SIZE];                                             \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                           \
        return REAL(name)(moved(path, buffer, sizeof buffer), flags, mode);     \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode)
{
    char buffer[PATH_SIZE];
    return REAL(mkdir)(moved(path, buffer, sizeof buffer), mode);
}

int unlink(const char *path)
{
    char buffer[PATH_SIZE];
    return REAL(unlink)(moved(path, buffer, sizeof buffer));
}

int chmod(const char *path, mode_t mode)
{
    char buffer[PATH_SIZE];
    return REAL(chmod)(moved(path, buffer, sizeof buffer), mode);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    char buffer[PATH_SIZE];
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (address->sa_family != AF_UNIX)
        return REAL(bind)(fd, address, length);
    snprintf(to.sun_path, sizeof to.sun_path, "%s",
             moved(((const struct sockaddr_un *)address)->sun_path, buffer, sizeof buffer));
    return REAL(bind)(fd, (const struct sockaddr *)&to, sizeof to);
}
