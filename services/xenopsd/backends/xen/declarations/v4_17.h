/* SPDX-License-Identifier: Apache-2.0
 *
 * What is used of libxenctrl.so.4.17 and libxenguest.so.4.17 (x86_64), written out without ellipses: the same text
 * serves the run-time binding and, compiled against the real headers in the tests, proves every size and offset.
 * A _Bool, an enum and a long are as wide here as they are there.
 */

typedef unsigned long xen_pfn_t;

/* --- the log: libxc writes, we read; the last argument of vmessage is a va_list and goes to vsnprintf as it is */

typedef struct xentoollog_logger xentoollog_logger;
struct xentoollog_logger {
    void (*vmessage)(xentoollog_logger *logger, int level, int errnoval, const char *context, const char *format, void *al);
    void (*progress)(xentoollog_logger *logger, const char *context, const char *doing_what, int percent,
                     unsigned long done, unsigned long total);
    void (*destroy)(xentoollog_logger *logger);
};

/* --- the handle and its errors */

typedef struct xc_interface_core xc_interface;
typedef struct xc_error {
    int code;
    char message[1024];
} xc_error;

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild_logger, unsigned open_flags);
int xc_interface_close(xc_interface *xch);
const xc_error *xc_get_last_error(xc_interface *handle);
void xc_clear_last_error(xc_interface *xch);

/* --- the host */

struct xen_sysctl_physinfo {
    uint32_t threads_per_core;
    uint32_t cores_per_socket;
    uint32_t nr_cpus;
    uint32_t max_cpu_id;
    uint32_t nr_nodes;
    uint32_t max_node_id;
    uint32_t cpu_khz;
    uint32_t capabilities;
    uint32_t arch_capabilities;
    uint32_t pad;
    uint64_t total_pages;
    uint64_t free_pages;
    uint64_t scrub_pages;
    uint64_t outstanding_pages;
    uint64_t max_mfn;
    uint32_t hw_cap[8];
};
struct xen_sysctl_cputopo {
    uint32_t core;
    uint32_t socket;
    uint32_t node;
};
struct xen_sysctl_meminfo {
    uint64_t memsize;
    uint64_t memfree;
};

int xc_version(xc_interface *xch, int cmd, void *arg);
int xc_physinfo(xc_interface *xch, struct xen_sysctl_physinfo *info);
int xc_cputopoinfo(xc_interface *xch, unsigned *max_cpus, struct xen_sysctl_cputopo *cputopo);
int xc_numainfo(xc_interface *xch, unsigned *max_nodes, struct xen_sysctl_meminfo *meminfo, uint32_t *distance);
int xc_sched_id(xc_interface *xch, int *sched_id);
int xc_readconsolering(xc_interface *xch, char *buffer, unsigned int *pnr_chars, int clear, int incremental,
                       uint32_t *pindex);
int xc_send_debug_keys(xc_interface *xch, const char *keys);
int xc_get_cpumap_size(xc_interface *xch);
int xc_get_nodemap_size(xc_interface *xch);
uint32_t xc_get_cpu_featureset_size(void);
int xc_get_cpu_featureset(xc_interface *xch, uint32_t index, uint32_t *nr_features, uint32_t *featureset);

/* --- domains */

struct xen_arch_domainconfig {
    uint32_t emulation_flags;
    uint32_t misc_flags;
};
struct xen_domctl_createdomain {
    uint32_t ssidref;
    uint8_t handle[16];
    uint32_t flags;
    uint32_t iommu_opts;
    uint32_t max_vcpus;
    uint32_t max_evtchn_port;
    int32_t max_grant_frames;
    int32_t max_maptrack_frames;
    uint32_t grant_opts;
    uint32_t vmtrace_size;
    uint32_t cpupool_id;
    struct xen_arch_domainconfig arch;
};
struct xen_domctl_getdomaininfo {
    uint16_t domain;
    uint16_t pad1;
    uint32_t flags;
    uint64_t tot_pages;
    uint64_t max_pages;
    uint64_t outstanding_pages;
    uint64_t shr_pages;
    uint64_t paged_pages;
    uint64_t shared_info_frame;
    uint64_t cpu_time;
    uint32_t nr_online_vcpus;
    uint32_t max_vcpu_id;
    uint32_t ssidref;
    uint8_t handle[16];
    uint32_t cpupool;
    uint8_t gpaddr_bits;
    uint8_t pad2[7];
    struct xen_arch_domainconfig arch_config;
};
struct xen_domctl_getvcpuinfo {
    uint32_t vcpu;
    uint8_t online;
    uint8_t blocked;
    uint8_t running;
    uint64_t cpu_time;
    uint32_t cpu;
};
struct xen_domctl_sched_credit {
    uint16_t weight;
    uint16_t cap;
};
struct xen_domctl_sched_credit2 {
    uint16_t weight;
    uint16_t cap;
};
struct e820entry;
struct xc_xend_cpuid;
struct xc_msr;

int xc_domain_create(xc_interface *xch, uint32_t *pdomid, struct xen_domctl_createdomain *config);
int xc_domain_getinfolist(xc_interface *xch, uint32_t first_domain, unsigned int max_domains,
                          struct xen_domctl_getdomaininfo *info);
int xc_domain_destroy(xc_interface *xch, uint32_t domid);
int xc_domain_pause(xc_interface *xch, uint32_t domid);
int xc_domain_unpause(xc_interface *xch, uint32_t domid);
int xc_domain_shutdown(xc_interface *xch, uint32_t domid, int reason);
int xc_domain_resume(xc_interface *xch, uint32_t domid, int fast);
int xc_domain_soft_reset(xc_interface *xch, uint32_t domid);
int xc_domain_sethandle(xc_interface *xch, uint32_t domid, uint8_t *handle);
int xc_domain_send_trigger(xc_interface *xch, uint32_t domid, uint32_t trigger, uint32_t vcpu);
int xc_domain_set_time_offset(xc_interface *xch, uint32_t domid, int32_t time_offset_seconds);
int xc_domain_set_tsc_info(xc_interface *xch, uint32_t domid, uint32_t tsc_mode, uint64_t elapsed_nsec,
                           uint32_t gtsc_khz, uint32_t incarnation);
int xc_cpuid_apply_policy(xc_interface *xch, uint32_t domid, _Bool restore, const uint32_t *featureset,
                          unsigned int nr_features, _Bool pae, _Bool itsc, _Bool nested_virt,
                          const struct xc_xend_cpuid *xend, const struct xc_msr *msr);

int xc_domain_max_vcpus(xc_interface *xch, uint32_t domid, unsigned int max);
int xc_vcpu_getinfo(xc_interface *xch, uint32_t domid, uint32_t vcpu, struct xen_domctl_getvcpuinfo *info);
int xc_vcpu_setaffinity(xc_interface *xch, uint32_t domid, int vcpu, uint8_t *cpumap_hard_inout,
                        uint8_t *cpumap_soft_inout, uint32_t flags);
int xc_vcpu_getaffinity(xc_interface *xch, uint32_t domid, int vcpu, uint8_t *cpumap_hard, uint8_t *cpumap_soft,
                        uint32_t flags);
int xc_domain_node_setaffinity(xc_interface *xch, uint32_t domid, uint8_t *nodemap);
int xc_sched_credit_domain_set(xc_interface *xch, uint32_t domid, struct xen_domctl_sched_credit *sdom);
int xc_sched_credit_domain_get(xc_interface *xch, uint32_t domid, struct xen_domctl_sched_credit *sdom);
int xc_sched_credit2_domain_set(xc_interface *xch, uint32_t domid, struct xen_domctl_sched_credit2 *sdom);
int xc_sched_credit2_domain_get(xc_interface *xch, uint32_t domid, struct xen_domctl_sched_credit2 *sdom);

int xc_domain_setmaxmem(xc_interface *xch, uint32_t domid, uint64_t max_memkb);
int xc_domain_claim_pages(xc_interface *xch, uint32_t domid, unsigned long nr_pages);
int xc_domain_set_pod_target(xc_interface *xch, uint32_t domid, uint64_t target_pages, uint64_t *tot_pages,
                             uint64_t *pod_cache_pages, uint64_t *pod_entries);
int xc_domain_set_memory_map(xc_interface *xch, uint32_t domid, struct e820entry *entries, uint32_t nr_entries);
int xc_get_paging_mempool_size(xc_interface *xch, uint32_t domid, uint64_t *size);
long long xc_shadow_control(xc_interface *xch, uint32_t domid, unsigned int sop, unsigned int *mb, unsigned int mode);
int xc_set_paging_mempool_size(xc_interface *xch, uint32_t domid, uint64_t size);

int xc_evtchn_alloc_unbound(xc_interface *xch, uint32_t dom, uint32_t remote_dom);
int xc_hvm_param_set(xc_interface *handle, uint32_t dom, uint32_t param, uint64_t value);
int xc_hvm_param_get(xc_interface *handle, uint32_t dom, uint32_t param, uint64_t *value);
int xc_domain_hvm_getcontext_partial(xc_interface *xch, uint32_t domid, uint16_t typecode, uint16_t instance,
                                     void *ctxt_buf, uint32_t size);

int xc_assign_device(xc_interface *xch, uint32_t domid, uint32_t machine_sbdf, uint32_t flag);
int xc_test_assign_device(xc_interface *xch, uint32_t domid, uint32_t machine_sbdf);
int xc_deassign_device(xc_interface *xch, uint32_t domid, uint32_t machine_sbdf);
int xc_physdev_map_pirq(xc_interface *xch, uint32_t domid, int index, int *pirq);
int xc_physdev_unmap_pirq(xc_interface *xch, uint32_t domid, int pirq);
int xc_domain_ioport_permission(xc_interface *xch, uint32_t domid, uint32_t first_port, uint32_t nr_ports,
                                uint32_t allow_access);
int xc_domain_irq_permission(xc_interface *xch, uint32_t domid, uint32_t pirq, _Bool allow_access);
int xc_domain_iomem_permission(xc_interface *xch, uint32_t domid, unsigned long first_mfn, unsigned long nr_mfns,
                               uint8_t allow_access);

int xc_domain_dumpcore(xc_interface *xch, uint32_t domid, const char *corename);

/* --- building */

struct elf_dom_parms;
struct xc_dom_mem;
struct xc_dom_phys;
struct xc_dom_loader;
struct xc_dom_arch;
struct xen_vmemrange;

struct xc_dom_seg {
    uint64_t vstart;
    uint64_t vend;
    xen_pfn_t pfn;
    xen_pfn_t pages;
};
struct xc_hvm_firmware_module {
    uint8_t *data;
    uint32_t length;
    uint64_t guest_addr_out;
};
struct xc_dom_module {
    void *blob;
    size_t size;
    void *cmdline;
    struct xc_dom_seg seg;
};
struct xc_dom_image {
    void *kernel_blob;
    size_t kernel_size;
    unsigned int num_modules;
    struct xc_dom_module modules[2];
    void *devicetree_blob;
    size_t devicetree_size;
    size_t max_kernel_size;
    size_t max_module_size;
    size_t max_devicetree_size;
    char *cmdline;
    size_t cmdline_size;
    uint32_t f_requested[1];
    struct elf_dom_parms *parms;
    const char *guest_type;
    struct xc_dom_seg kernel_seg;
    struct xc_dom_seg p2m_seg;
    struct xc_dom_seg pgtables_seg;
    struct xc_dom_seg devicetree_seg;
    struct xc_dom_seg start_info_seg;
    xen_pfn_t start_info_pfn;
    xen_pfn_t console_pfn;
    xen_pfn_t xenstore_pfn;
    xen_pfn_t shared_info_pfn;
    xen_pfn_t bootstack_pfn;
    xen_pfn_t pfn_alloc_end;
    uint64_t virt_alloc_end;
    uint64_t bsd_symtab_start;
    uint64_t initrd_start;
    uint64_t initrd_len;
    unsigned int alloc_bootstack;
    uint64_t virt_pgtab_end;
    uint32_t f_active[1];
    xen_pfn_t *pv_p2m;
    xen_pfn_t p2m_size;
    xen_pfn_t rambase_pfn;
    xen_pfn_t total_pages;
    struct xc_dom_phys *phys_pages;
    struct xc_dom_mem *memblocks;
    size_t alloc_malloc;
    size_t alloc_mem_map;
    size_t alloc_file_map;
    size_t alloc_domU_map;
    unsigned long flags;
    unsigned int console_evtchn;
    unsigned int xenstore_evtchn;
    uint32_t console_domid;
    uint32_t xenstore_domid;
    xen_pfn_t shared_info_mfn;
    xc_interface *xch;
    uint32_t guest_domid;
    int claim_enabled;
    int xen_version;
    char xen_caps[1024];
    struct xc_dom_loader *kernel_loader;
    void *private_loader;
    struct xen_vmemrange *vmemranges;
    unsigned int nr_vmemranges;
    unsigned int *vnode_to_pnode;
    unsigned int nr_vnodes;
    void *arch_private;
    struct xc_dom_arch *arch_hooks;
    int (*allocate)(struct xc_dom_image *dom);
    unsigned int container_type;
    xen_pfn_t target_pages;
    uint64_t mmio_start;
    uint64_t mmio_size;
    uint64_t lowmem_end;
    uint64_t highmem_end;
    xen_pfn_t vga_hole_size;
    _Bool device_model;
    struct xc_hvm_firmware_module system_firmware_module;
    struct xc_hvm_firmware_module acpi_modules[4];
    struct xc_hvm_firmware_module smbios_module;
    struct e820entry *e820;
    unsigned int e820_entries;
    xen_pfn_t vuart_gfn;
    unsigned int max_vcpus;
};

/* What hvmloader is told, in the guest's frame 0x9f, 0x800 bytes in. */
struct hvm_info_table {
    char signature[8];
    uint32_t length;
    uint8_t checksum;
    uint8_t apic_mode;
    uint32_t nr_vcpus;
    uint32_t low_mem_pgend;
    uint32_t reserved_mem_pgstart;
    uint32_t high_mem_pgend;
    uint8_t vcpu_online[16];
};

struct xc_dom_image *xc_dom_allocate(xc_interface *xch, const char *cmdline, const char *features);
void xc_dom_release(struct xc_dom_image *dom);
int xc_dom_kernel_file(struct xc_dom_image *dom, const char *filename);
int xc_dom_kernel_mem(struct xc_dom_image *dom, const void *mem, size_t memsize);
int xc_dom_module_file(struct xc_dom_image *dom, const char *filename, const char *cmdline);
int xc_dom_module_mem(struct xc_dom_image *dom, const void *mem, size_t memsize, const char *cmdline);
int xc_dom_boot_xen_init(struct xc_dom_image *dom, xc_interface *xch, uint32_t domid);
int xc_dom_parse_image(struct xc_dom_image *dom);
int xc_dom_mem_init(struct xc_dom_image *dom, unsigned int mem_mb);
int xc_dom_boot_mem_init(struct xc_dom_image *dom);
int xc_dom_build_image(struct xc_dom_image *dom);
int xc_dom_boot_image(struct xc_dom_image *dom);
void *xc_dom_pfn_to_ptr(struct xc_dom_image *dom, xen_pfn_t first, xen_pfn_t count);
int xc_dom_gnttab_init(struct xc_dom_image *dom);
int xc_dom_gnttab_seed(xc_interface *xch, uint32_t guest_domid, _Bool is_hvm, xen_pfn_t console_gfn,
                       xen_pfn_t xenstore_gfn, uint32_t console_domid, uint32_t xenstore_domid);

/* --- saving and restoring */

struct precopy_stats {
    unsigned int iteration;
    unsigned long total_written;
    long dirty_count;
};
struct save_callbacks {
    int (*suspend)(void *data);
    int (*precopy_policy)(struct precopy_stats stats, void *data);
    int (*postcopy)(void *data);
    int (*checkpoint)(void *data);
    int (*wait_checkpoint)(void *data);
    int (*switch_qemu_logdirty)(uint32_t domid, unsigned enable, void *data);
    void *data;
};
struct restore_callbacks {
    int (*static_data_done)(unsigned int missing, void *data);
    int (*suspend)(void *data);
    int (*postcopy)(void *data);
    int (*checkpoint)(void *data);
    int (*wait_checkpoint)(void *data);
    void (*restore_results)(xen_pfn_t store_gfn, xen_pfn_t console_gfn, void *data);
    void *data;
};

int xc_domain_save(xc_interface *xch, int io_fd, uint32_t dom, uint32_t flags, struct save_callbacks *callbacks,
                   int stream_type, int recv_fd);
int xc_domain_restore(xc_interface *xch, int io_fd, uint32_t dom, unsigned int store_evtchn, unsigned long *store_mfn,
                      uint32_t store_domid, unsigned int console_evtchn, unsigned long *console_mfn,
                      uint32_t console_domid, int stream_type, struct restore_callbacks *callbacks, int send_back_fd);

/* --- of the libraries that libxenguest brings along */

size_t ZSTD_decompress(void *dst, size_t dst_capacity, const void *src, size_t compressed_size);
unsigned ZSTD_isError(size_t code);

/* --- of the C library */

int vsnprintf(char *s, size_t n, const char *format, void *al);
int prctl(int option, ...);
