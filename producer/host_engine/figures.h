// The kernel's text files as values. Pure: each function takes the text of one file, and takes what
// it finds; a line that it does not understand is passed over, because the formats grow.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sigmacast::host_engine {

/// Of /proc/stat, since boot, in ticks.
struct CpuTimes {
    std::uint64_t busy = 0;
    std::uint64_t total = 0;
};
std::optional<CpuTimes> parse_cpu_times(std::string_view stat);

/// CPU usage between calls, in percent with one decimal.
class CpuMeter {
 public:
    /// Calls that are closer together than 100 ms or so repeat the last figure.
    double usage(CpuTimes now);

 private:
    CpuTimes before_;
    double last_ = 0;
};

/// Of /proc/meminfo, in bytes. `used` leaves out buffers and caches, as free(1) does.
struct Memory {
    std::uint64_t total = 0;
    std::uint64_t used = 0;
    std::uint64_t free = 0;
    std::uint64_t available = 0;
};
std::optional<Memory> parse_memory(std::string_view meminfo);

struct Load {
    double load1 = 0;
    double load5 = 0;
    double load15 = 0;
};
std::optional<Load> parse_load(std::string_view loadavg);

/// Whole seconds.
std::optional<std::uint64_t> parse_uptime(std::string_view uptime);

/// A line of /proc/self/mountinfo; \040 and the like are decoded.
struct Mount {
    std::string device_number;  // "8:1"
    std::string root;           // Of the file system: "/" unless it is a bind mount or a subvolume.
    std::string mountpoint;
    std::string fstype;
    std::string source;  // "/dev/sda1", "tank/home"
    bool read_only = false;
};
std::vector<Mount> parse_mounts(std::string_view mountinfo);

/// The mounts that hold data of this machine, each file system once: of disks, ZFS, and a
/// container's root. Network file systems are not among them: asking for their size can block for
/// ever.
std::vector<Mount> real_file_systems(const std::vector<Mount>& mounts);

/// Of /proc/mdstat.
struct RaidMember {
    std::string name;   // "sda1"
    std::string state;  // ONLINE, FAULTED, SPARE
};
struct RaidArray {
    std::string name;   // "md0"
    std::string level;  // "raid1"; empty while inactive
    std::string state;  // ONLINE, DEGRADED, FAULTED, OFFLINE
    std::uint64_t size = 0;
    std::vector<RaidMember> members;
    std::string
        activity;  // "recovery = 12.6% (37043392/292945152) finish=127.5min speed=33440K/sec"
};
std::vector<RaidArray> parse_raid_arrays(std::string_view mdstat);

/// Device paths of /proc/swaps.
std::vector<std::string> parse_swaps(std::string_view swaps);

/// The text without blanks and zero bytes around it.
std::string trimmed(std::string_view text);

/// 100 * part / whole with one decimal; 0 where whole is 0.
double percent(std::uint64_t part, std::uint64_t whole);

}  // namespace sigmacast::host_engine
