// Reads this machine's figures from /proc and /sys and gives them as the engine's methods answer
// them. What cannot be read is left out; only what system.status cannot do without throws. Calls
// read small kernel files and take about a millisecond; none of them touches a network file system
// or wakes a disk. Runs on: the loop.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/time.h"
#include "producer/host_engine/envelope.h"
#include "producer/host_engine/figures.h"

namespace sigmacast::host_engine {

/// Of a file system, in bytes; `free` is what an ordinary user may still write.
struct Space {
    std::uint64_t total = 0;
    std::uint64_t used = 0;
    std::uint64_t free = 0;
};
/// Nullopt where it cannot be read.
using SpaceOf = std::function<std::optional<Space>(const std::string& mountpoint)>;
std::optional<Space> space_of(const std::string& mountpoint);

class Host {
 public:
    /// `root` is where proc and sys are found: "/" outside tests.
    explicit Host(std::string root = "/", SpaceOf space = space_of);

    boost::json::object status(Now now);
    boost::json::array pools() const;
    boost::json::array disks() const;
    boost::json::object network(Now now) const;

    /// All of them under the engine's names, and health.check. They refer to this object.
    Methods methods();

 private:
    [[nodiscard]] std::string read(const std::string& path) const;
    [[nodiscard]] std::vector<Mount> mounts() const;
    boost::json::array file_systems() const;
    boost::json::object disk(const std::string& name, const std::vector<std::string>& swaps,
                             const std::vector<Mount>& mounts) const;
    boost::json::object interface(const std::string& name) const;

    const std::string root_;
    const SpaceOf space_;
    CpuMeter cpu_;
};

}  // namespace sigmacast::host_engine
