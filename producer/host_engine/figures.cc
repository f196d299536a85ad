#include "producer/host_engine/figures.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace sigmacast::host_engine {
namespace {

std::string_view take_line(std::string_view& text) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    return line;
}

std::vector<std::string_view> words(std::string_view line) {
    std::vector<std::string_view> result;
    while (true) {
        const std::size_t start = line.find_first_not_of(" \t\r");
        if (start == std::string_view::npos) {
            return result;
        }
        const std::size_t end = std::min(line.find_first_of(" \t\r", start), line.size());
        result.push_back(line.substr(start, end - start));
        line = line.substr(end);
    }
}

template <class Number>
std::optional<Number> number(std::string_view text) {
    Number value{};
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    return parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

double one_decimal(double value) {
    return std::round(value * 10) / 10;
}

bool is_octal(std::string_view text) {
    return text.size() == 3 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '7'; });
}

/// The kernel writes blank, tab, newline, backslash and # as three octal digits.
std::string unescaped(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && is_octal(text.substr(i + 1, 3))) {
            const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + text[i + 3] - '0';
            result += static_cast<char>(code);
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

bool has_option(std::string_view options, std::string_view wanted) {
    while (!options.empty()) {
        const std::size_t comma = options.find(',');
        if (options.substr(0, comma) == wanted) {
            return true;
        }
        options = comma == std::string_view::npos ? std::string_view() : options.substr(comma + 1);
    }
    return false;
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> choices) {
    return std::find(choices.begin(), choices.end(), text) != choices.end();
}

bool holds_data(const Mount& mount) {
    if (is_one_of(mount.fstype, {"zfs", "btrfs", "bcachefs"})) {
        return true;
    }
    if (mount.fstype == "overlay") {
        return mount.mountpoint == "/";  // A container's root: its disk is not to be seen.
    }
    return mount.source.rfind("/dev/", 0) == 0 &&
           !is_one_of(mount.fstype, {"squashfs", "iso9660", "udf", "devtmpfs", "tmpfs"});
}

}  // namespace

std::string trimmed(std::string_view text) {
    constexpr std::string_view kBlank(" \t\r\n\0", 5);
    const std::size_t start = text.find_first_not_of(kBlank);
    if (start == std::string_view::npos) {
        return {};
    }
    return std::string(text.substr(start, text.find_last_not_of(kBlank) - start + 1));
}

double percent(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0
                      : one_decimal(100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::optional<CpuTimes> parse_cpu_times(std::string_view stat) {
    // proc(5): user nice system idle iowait irq softirq steal; guest time is in user already.
    constexpr std::size_t kFields = 8;
    constexpr std::size_t kIdle = 3;
    constexpr std::size_t kIoWait = 4;
    while (!stat.empty()) {
        const auto fields = words(take_line(stat));
        if (fields.size() < 5 || fields[0] != "cpu") {
            continue;
        }
        CpuTimes times;
        for (std::size_t i = 0; i < std::min(kFields, fields.size() - 1); ++i) {
            const std::uint64_t ticks = number<std::uint64_t>(fields[i + 1]).value_or(0);
            times.total += ticks;
            times.busy += i == kIdle || i == kIoWait ? 0 : ticks;
        }
        return times;
    }
    return std::nullopt;
}

double CpuMeter::usage(CpuTimes now) {
    constexpr std::uint64_t kTicksMin = 10;  // Of one CPU at 100 Hz: 100 ms.
    if (now.total < before_.total || now.busy < before_.busy) {
        before_ = now;  // The kernel's idle counters may step back; begin anew.
        return last_;
    }
    if (now.total - before_.total >= kTicksMin) {
        last_ = percent(now.busy - before_.busy, now.total - before_.total);
        before_ = now;
    }
    return last_;
}

std::optional<Memory> parse_memory(std::string_view meminfo) {
    std::map<std::string_view, std::uint64_t> bytes;
    while (!meminfo.empty()) {
        const auto fields = words(take_line(meminfo));
        if (fields.size() >= 2 && fields[0].back() == ':') {
            bytes[fields[0].substr(0, fields[0].size() - 1)] =
                number<std::uint64_t>(fields[1]).value_or(0) * 1024;
        }
    }
    Memory memory;
    memory.total = bytes["MemTotal"];
    memory.free = bytes["MemFree"];
    if (memory.total == 0) {
        return std::nullopt;
    }
    const std::uint64_t cache = bytes["Buffers"] + bytes["Cached"] + bytes["SReclaimable"];
    const std::uint64_t taken = memory.total - std::min(memory.total, memory.free);
    memory.used = taken >= cache ? taken - cache : taken;
    // Kernels before 3.14 do not say what is available.
    memory.available = bytes.contains("MemAvailable") ? bytes["MemAvailable"]
                                                      : std::min(memory.total, memory.free + cache);
    return memory;
}

std::optional<Load> parse_load(std::string_view loadavg) {
    const auto fields = words(loadavg);
    if (fields.size() < 3) {
        return std::nullopt;
    }
    const auto one = number<double>(fields[0]);
    const auto five = number<double>(fields[1]);
    const auto fifteen = number<double>(fields[2]);
    return one && five && fifteen ? std::optional(Load{*one, *five, *fifteen}) : std::nullopt;
}

std::optional<std::uint64_t> parse_uptime(std::string_view uptime) {
    return number<std::uint64_t>(uptime.substr(0, uptime.find('.')));
}

std::vector<Mount> parse_mounts(std::string_view mountinfo) {
    // proc(5): id parent major:minor root mountpoint options [tags ...] - type source superoptions
    constexpr std::size_t kFixed = 6;
    std::vector<Mount> mounts;
    while (!mountinfo.empty()) {
        const auto fields = words(take_line(mountinfo));
        const auto dash = fields.size() < kFixed
                              ? fields.end()
                              : std::find(fields.begin() + kFixed, fields.end(), "-");
        if (fields.end() - dash < 3) {
            continue;
        }
        Mount mount;
        mount.device_number = fields[2];
        mount.root = unescaped(fields[3]);
        mount.mountpoint = unescaped(fields[4]);
        mount.fstype = dash[1];
        mount.source = unescaped(dash[2]);
        mount.read_only =
            has_option(fields[5], "ro") || (fields.end() - dash > 3 && has_option(dash[3], "ro"));
        mounts.push_back(std::move(mount));
    }
    return mounts;
}

std::vector<Mount> real_file_systems(const std::vector<Mount>& mounts) {
    // What is mounted over hides what is below it.
    std::map<std::string, const Mount*> visible;
    for (const Mount& mount : mounts) {
        visible[mount.mountpoint] = &mount;
    }
    std::map<std::string, const Mount*> best;  // By file system.
    const auto better = [](const Mount& a, const Mount& b) {
        const bool a_whole = a.root == "/";
        const bool b_whole = b.root == "/";
        return a_whole != b_whole ? a_whole : a.mountpoint.size() < b.mountpoint.size();
    };
    for (const auto& [mountpoint, mount] : visible) {
        if (!holds_data(*mount)) {
            continue;
        }
        const auto [it, fresh] = best.emplace(mount->source, mount);
        if (!fresh && better(*mount, *it->second)) {
            it->second = mount;
        }
    }
    std::vector<Mount> result;
    for (const Mount& mount : mounts) {  // In the order of the file.
        const auto it = best.find(mount.source);
        if (it != best.end() && it->second == &mount) {
            result.push_back(mount);
        }
    }
    return result;
}

namespace {

/// "sdb1[1](F)"
RaidMember parse_member(std::string_view text) {
    RaidMember member{.name = std::string(text.substr(0, text.find('['))), .state = "ONLINE"};
    if (text.find("(F)") != std::string_view::npos) {
        member.state = "FAULTED";
    } else if (text.find("(S)") != std::string_view::npos) {
        member.state = "SPARE";
    }
    return member;
}

/// "md0 : active (auto-read-only) raid1 sdb1[1] sda1[0]"
RaidArray parse_array_line(const std::vector<std::string_view>& fields) {
    RaidArray array;
    array.name = fields[0];
    array.state = fields[2] == "inactive" ? "OFFLINE" : "ONLINE";
    for (std::size_t i = 3; i < fields.size(); ++i) {
        if (fields[i].find('[') != std::string_view::npos) {
            array.members.push_back(parse_member(fields[i]));
        } else if (fields[i].front() != '(') {
            array.level = fields[i];
        }
    }
    return array;
}

/// How many disks an array can lose and still be read; nullopt where that depends on which.
std::optional<std::uint64_t> spare_disks(std::string_view level, std::uint64_t disks) {
    if (is_one_of(level, {"raid4", "raid5"})) {
        return 1;
    }
    if (level == "raid6") {
        return 2;
    }
    if (level == "raid1") {
        return disks - 1;
    }
    return is_one_of(level, {"raid0", "linear"}) ? std::optional<std::uint64_t>(0) : std::nullopt;
}

/// "976630464 blocks super 1.2 [2/1] [U_]"
void parse_status_line(const std::vector<std::string_view>& fields, RaidArray& array) {
    array.size = number<std::uint64_t>(fields[0]).value_or(0) * 1024;
    for (const std::string_view field : fields) {
        const std::size_t slash = field.find('/');
        if (field.size() < 5 || field.front() != '[' || slash == std::string_view::npos) {
            continue;
        }
        const auto wanted = number<std::uint64_t>(field.substr(1));
        const auto present = number<std::uint64_t>(field.substr(slash + 1));
        if (!wanted || !present || *wanted == 0 || array.state == "OFFLINE" ||
            *present >= *wanted) {
            continue;
        }
        const auto spare = spare_disks(array.level, *wanted);
        const bool lost = *present == 0 || (spare && *wanted - *present > *spare);
        array.state = lost ? "FAULTED" : "DEGRADED";
    }
}

void judge_striped(RaidArray& array) {
    const bool faulted =
        std::any_of(array.members.begin(), array.members.end(),
                    [](const RaidMember& member) { return member.state == "FAULTED"; });
    if (faulted && is_one_of(array.level, {"raid0", "linear"})) {
        array.state = "FAULTED";
    }
}

}  // namespace

std::vector<RaidArray> parse_raid_arrays(std::string_view mdstat) {
    constexpr std::array<std::string_view, 4> kActivities{"resync", "recovery", "reshape", "check"};
    std::vector<RaidArray> arrays;
    bool inside = false;
    while (!mdstat.empty()) {
        const std::string_view line = take_line(mdstat);
        const auto fields = words(line);
        if (fields.size() >= 3 && fields[1] == ":" && fields[0].rfind("md", 0) == 0) {
            arrays.push_back(parse_array_line(fields));
            judge_striped(arrays.back());
            inside = true;
        } else if (fields.empty() || line.front() != ' ') {
            inside = false;
        } else if (inside && fields.size() >= 2 && fields[1] == "blocks") {
            parse_status_line(fields, arrays.back());
        } else if (inside) {
            for (const std::string_view activity : kActivities) {
                const std::size_t at = line.find(activity);
                if (at != std::string_view::npos && line.find('=', at) != std::string_view::npos) {
                    arrays.back().activity = trimmed(line.substr(at));
                }
            }
        }
    }
    return arrays;
}

std::vector<std::string> parse_swaps(std::string_view swaps) {
    std::vector<std::string> devices;
    while (!swaps.empty()) {
        const auto fields = words(take_line(swaps));
        if (!fields.empty() && fields[0].front() == '/') {
            devices.push_back(unescaped(fields[0]));
        }
    }
    return devices;
}

}  // namespace sigmacast::host_engine
