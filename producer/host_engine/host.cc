#include "producer/host_engine/host.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

namespace sigmacast::host_engine {
namespace fs = std::filesystem;
namespace json = boost::json;
namespace {

constexpr std::size_t kFileBytesMax = 4u << 20;  // Of one file; the longest here is mountinfo.
constexpr std::size_t kEntriesMax = 4'096;       // Of one folder: disks, interfaces.
constexpr std::uint64_t kSectorBytes = 512;      // In /sys/block, whatever the disk's own are.

/// Names in a folder, sorted; none where there is no such folder.
std::vector<std::string> entries(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code failed;
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end;
         it.increment(failed)) {
        if (names.size() == kEntriesMax) {
            break;
        }
        names.push_back(it->path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::optional<std::int64_t> number(const std::string& text) {
    std::int64_t value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

bool starts_with_any(const std::string& text, std::initializer_list<const char*> prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const char* prefix) { return text.rfind(prefix, 0) == 0; });
}

std::string host_name() {
    std::array<char, 256> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

/// As the original writes it: "2026-11-20T23:57:37.005+00:00".
std::string timestamp(Now now) {
    std::string text = to_rfc3339(now.wall);
    text.pop_back();
    return text + "+00:00";
}

std::string health_word(const std::string& state) {
    return state == "ONLINE" ? "healthy" : state == "DEGRADED" ? "degraded" : "faulted";
}

void put_space(json::object& into, const Space& space) {
    into["size"] = space.total;
    into["allocated"] = space.used;
    into["free"] = space.free;
    into["capacity"] = percent(space.used, space.used + space.free);
}

json::object raid_vdev(const RaidArray& array) {
    json::array devices;
    for (const RaidMember& member : array.members) {
        devices.push_back(json::object{{"name", member.name}, {"state", member.state}});
    }
    return {{"name", array.name},
            {"type", array.level},
            {"state", array.state},
            {"devices", std::move(devices)}};
}

void put_raid(json::object& pool, const RaidArray& array) {
    pool["state"] = array.state;
    pool["health"] = health_word(array.state);
    pool["vdevs"] = json::array{raid_vdev(array)};
    if (!array.activity.empty()) {
        pool["scan_status"] = array.activity;
    }
}

json::object raid_pool(const RaidArray& array) {
    json::object pool{{"name", array.name}, {"state", array.state}, {"size", array.size}};
    put_raid(pool, array);
    return pool;
}

json::object mount_pool(const Mount& mount, const Space& space) {
    json::object pool{{"name", mount.mountpoint}, {"state", "ONLINE"}};
    put_space(pool, space);
    pool["health"] = "healthy";
    pool["fstype"] = mount.fstype;
    pool["device"] = mount.source;
    pool["mountpoint"] = mount.mountpoint;
    pool["read_only"] = mount.read_only;
    return pool;
}

std::string zfs_pool_of(const std::string& dataset) {
    return dataset.substr(0, dataset.find('/'));
}

/// "/dev/md0" -> "md0"; also /dev/md/name, which is a link to it.
std::string device_name(const std::string& source) {
    std::error_code failed;
    const fs::path target = fs::canonical(source, failed);
    return (failed ? fs::path(source) : target).filename().string();
}

json::array addresses_of(const std::string& name) {
    json::array addresses;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) {
        return addresses;
    }
    const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
        if (entry->ifa_addr == nullptr || name != entry->ifa_name) {
            continue;
        }
        const int family = entry->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) {
            continue;
        }
        const auto raw = [family](const sockaddr* address) -> const void* {
            return family == AF_INET ? static_cast<const void*>(
                                           &reinterpret_cast<const sockaddr_in*>(address)->sin_addr)
                                     : &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
        };
        std::array<char, INET6_ADDRSTRLEN> text{};
        ::inet_ntop(family, raw(entry->ifa_addr), text.data(), text.size());
        int prefix = 0;
        if (entry->ifa_netmask != nullptr) {
            const auto* bytes = static_cast<const unsigned char*>(raw(entry->ifa_netmask));
            for (std::size_t i = 0; i < (family == AF_INET ? 4u : 16u); ++i) {
                prefix += std::popcount(bytes[i]);
            }
        }
        addresses.push_back(json::object{{"address", text.data()},
                                         {"prefix", prefix},
                                         {"family", family == AF_INET ? "ipv4" : "ipv6"}});
    }
    return addresses;
}

template <class Value>
Value needed(std::optional<Value> value, const char* file) {
    if (!value) {
        throw std::runtime_error(std::string(file) + " cannot be read");
    }
    return *value;
}

}  // namespace

std::optional<Space> space_of(const std::string& mountpoint) {
    struct statvfs status{};
    if (::statvfs(mountpoint.c_str(), &status) != 0 || status.f_blocks == 0) {
        return std::nullopt;
    }
    const auto bytes = [&](std::uint64_t blocks) { return blocks * status.f_frsize; };
    return Space{.total = bytes(status.f_blocks),
                 .used = bytes(status.f_blocks - status.f_bfree),
                 .free = bytes(status.f_bavail)};
}

Host::Host(std::string root, SpaceOf space) : root_(std::move(root)), space_(std::move(space)) {
    if (const auto times = parse_cpu_times(read("proc/stat"))) {
        (void)cpu_.usage(*times);
    }
}

std::string Host::read(const std::string& path) const {
    std::ifstream file((fs::path(root_) / path).string(), std::ios::binary);
    std::string text;
    std::array<char, 4096> buffer{};
    while (file && text.size() < kFileBytesMax) {
        file.read(buffer.data(), buffer.size());
        text.append(buffer.data(), static_cast<std::size_t>(file.gcount()));
    }
    return text;
}

std::vector<Mount> Host::mounts() const {
    return parse_mounts(read("proc/self/mountinfo"));
}

json::array Host::file_systems() const {
    json::array list;
    for (const Mount& mount : real_file_systems(mounts())) {
        if (const auto space = space_(mount.mountpoint)) {
            list.push_back(
                json::object{{"device", mount.source},
                             {"mountpoint", mount.mountpoint},
                             {"fstype", mount.fstype},
                             {"total", space->total},
                             {"used", space->used},
                             {"free", space->free},
                             {"percent", percent(space->used, space->used + space->free)}});
        }
    }
    return list;
}

json::object Host::status(Now now) {
    const auto cpu = needed(parse_cpu_times(read("proc/stat")), "/proc/stat");
    const auto memory = needed(parse_memory(read("proc/meminfo")), "/proc/meminfo");
    const auto load = needed(parse_load(read("proc/loadavg")), "/proc/loadavg");
    const auto uptime = needed(parse_uptime(read("proc/uptime")), "/proc/uptime");
    const std::uint64_t taken = memory.total - std::min(memory.total, memory.available);
    return {{"hostname", host_name()},
            {"platform", "Linux"},
            {"uptime", uptime},
            {"cpu_usage", cpu_.usage(cpu)},
            {"memory_usage", json::object{{"total", memory.total},
                                          {"used", memory.used},
                                          {"free", memory.free},
                                          {"available", memory.available},
                                          {"used_percent", percent(taken, memory.total)}}},
            {"disk_usage", file_systems()},
            {"load_average",
             json::object{{"load1", load.load1}, {"load5", load.load5}, {"load15", load.load15}}},
            {"timestamp", timestamp(now)}};
}

json::array Host::pools() const {
    const std::vector<RaidArray> arrays = parse_raid_arrays(read("proc/mdstat"));
    std::map<std::string, Space> zfs;  // What is known of a pool from its mounted datasets.
    std::vector<std::string> mounted_arrays;
    json::array list;
    for (const Mount& mount : real_file_systems(mounts())) {
        const auto space = space_(mount.mountpoint);
        if (!space) {
            continue;
        }
        if (mount.fstype == "zfs") {
            Space& pool = zfs[zfs_pool_of(mount.source)];
            pool.used += space->used;
            pool.free = std::max(pool.free, space->free);  // Datasets share it.
            pool.total = pool.used + pool.free;
            continue;
        }
        json::object pool = mount_pool(mount, *space);
        const std::string device = device_name(mount.source);
        for (const RaidArray& array : arrays) {
            if (array.name == device) {
                put_raid(pool, array);
                mounted_arrays.push_back(array.name);
            }
        }
        list.push_back(std::move(pool));
    }
    for (const RaidArray& array : arrays) {
        if (std::find(mounted_arrays.begin(), mounted_arrays.end(), array.name) ==
            mounted_arrays.end()) {
            list.push_back(raid_pool(array));
        }
    }
    const std::string kstat = "proc/spl/kstat/zfs";
    for (const std::string& name : entries((fs::path(root_) / kstat).string())) {
        const std::string state = trimmed(read(kstat + "/" + name + "/state"));
        if (state.empty()) {
            continue;  // One of the counters that are in the same folder.
        }
        json::object pool{{"name", name}, {"state", state}, {"fstype", "zfs"}};
        if (const auto known = zfs.find(name); known != zfs.end()) {
            put_space(pool, known->second);
        }
        pool["health"] = health_word(state);
        list.push_back(std::move(pool));
    }
    return list;
}

json::array Host::disks() const {
    const std::vector<std::string> swaps = parse_swaps(read("proc/swaps"));
    const std::vector<Mount> mounted = mounts();
    json::array list;
    for (const std::string& name : entries((fs::path(root_) / "sys/block").string())) {
        if (starts_with_any(name, {"loop", "ram", "zram", "dm-", "md", "sr", "fd"})) {
            continue;
        }
        json::object one = disk(name, swaps, mounted);
        if (one.at("size").to_number<std::uint64_t>() > 0) {  // An empty card reader has none.
            list.push_back(std::move(one));
        }
    }
    return list;
}

namespace {

/// What lies behind a paravirtual disk (virtio, Xen) its guest cannot know: the kernel's flag for
/// rotation says 1 where nobody has told it.
const char* disk_type(std::string_view name, bool rotational) {
    if (name.starts_with("nvme")) {
        return "nvme";
    }
    if (name.starts_with("vd") || name.starts_with("xvd")) {
        return "virtual";
    }
    return rotational ? "hdd" : "ssd";
}

}  // namespace

json::object Host::disk(const std::string& name, const std::vector<std::string>& swaps,
                        const std::vector<Mount>& mounted) const {
    const std::string base = "sys/block/" + name + "/";
    const auto text = [&](const std::string& file) { return trimmed(read(base + file)); };
    const bool rotational = text("queue/rotational") == "1";
    const std::uint64_t sectors =
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, number(text("size")).value_or(0)));
    std::string path = "/dev/" + name;
    std::replace(path.begin() + 5, path.end(), '!', '/');

    std::string serial = text("serial");
    if (serial.empty()) {
        serial = text("device/serial");
    }
    if (serial.empty()) {  // SCSI: vital product data, four bytes of header, then text.
        const std::string page = read(base + "device/vpd_pg80");
        serial = page.size() > 4 ? trimmed(std::string_view(page).substr(4)) : "";
    }

    // The disk and its partitions, as "8:1" and as "/dev/sda1".
    std::vector<std::string> numbers{text("dev")};
    std::vector<std::string> paths{path};
    bool in_use = !entries((fs::path(root_) / base / "holders").string()).empty();
    for (const std::string& part : entries((fs::path(root_) / base).string())) {
        if (part.rfind(name, 0) == 0) {
            numbers.push_back(text(part + "/dev"));
            paths.push_back("/dev/" + part);
            in_use =
                in_use || !entries((fs::path(root_) / base / part / "holders").string()).empty();
        }
    }
    const auto among = [](const std::vector<std::string>& list, const std::string& item) {
        return !item.empty() && std::find(list.begin(), list.end(), item) != list.end();
    };
    in_use = in_use || std::any_of(mounted.begin(), mounted.end(), [&](const Mount& mount) {
                 return among(numbers, mount.device_number) || among(paths, mount.source);
             });
    in_use = in_use || std::any_of(swaps.begin(), swaps.end(),
                                   [&](const std::string& device) { return among(paths, device); });

    json::object one{{"name", name},
                     {"path", path},
                     {"model", text("device/model")},
                     {"serial", serial},
                     {"size", sectors * kSectorBytes},
                     {"type", disk_type(name, rotational)},
                     {"rotational", rotational},
                     {"removable", text("removable") == "1"},
                     {"in_use", in_use}};
    // A SATA disk's sensor is below device/hwmon, an NVMe controller's is beside its other folders.
    for (const std::string& folder : {base + "device/hwmon", base + "device"}) {
        for (const std::string& sensor : entries((fs::path(root_) / folder).string())) {
            if (sensor.rfind("hwmon", 0) != 0 || one.contains("temperature")) {
                continue;
            }
            if (const auto millis = number(trimmed(read(folder + "/" + sensor + "/temp1_input")))) {
                one["temperature"] = static_cast<double>(*millis / 100) / 10;
            }
        }
    }
    return one;
}

json::object Host::network(Now now) const {
    json::array interfaces;
    for (const std::string& name : entries((fs::path(root_) / "sys/class/net").string())) {
        interfaces.push_back(interface(name));
    }
    return {{"interfaces", std::move(interfaces)}, {"timestamp", timestamp(now)}};
}

json::object Host::interface(const std::string& name) const {
    const std::string base = "sys/class/net/" + name + "/";
    const auto text = [&](const std::string& file) { return trimmed(read(base + file)); };
    json::object one{{"name", name},
                     {"state", text("operstate")},
                     {"mac", text("address")},
                     {"mtu", number(text("mtu")).value_or(0)},
                     {"addresses", addresses_of(name)}};
    // Reading the speed of an interface that is down is an error, and a virtual one says -1.
    if (const auto speed = number(text("speed")); speed && *speed > 0) {
        one["speed_mbps"] = *speed;
    }
    for (const char* counter : {"rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_errors",
                                "tx_errors", "rx_dropped", "tx_dropped"}) {
        one[counter] = number(text(std::string("statistics/") + counter)).value_or(0);
    }
    return one;
}

Methods Host::methods() {
    return {
        {"health.check", [](const json::object&) { return json::object{{"status", "healthy"}}; }},
        {"system.status", [this](const json::object&) { return status(system_now()); }},
        {"system.network", [this](const json::object&) { return network(system_now()); }},
        {"storage.pools.list", [this](const json::object&) { return pools(); }},
        {"storage.disks.list", [this](const json::object&) { return disks(); }},
    };
}

}  // namespace sigmacast::host_engine
