#include "storage/reserve.h"

#include <cstddef>
#include <filesystem>
#include <random>

#include "common/log.h"
#include "common/state_file.h"

namespace sigmacast::storage {
namespace {

/// Not zeros: a file system that compresses would keep no room for them.
std::string incompressible(std::size_t bytes) {
    std::mt19937_64 numbers;
    std::string content;
    content.reserve(bytes);
    while (content.size() < bytes) {
        const std::uint64_t number = numbers();
        content.append(reinterpret_cast<const char*>(&number), sizeof(number));
    }
    return content;
}

}  // namespace

bool Reserve::keep() {
    std::error_code missing;
    if (std::filesystem::file_size(path_, missing) == kReserveBytes && !missing) {
        return true;
    }
    std::error_code unknown;
    const auto folder = std::filesystem::absolute(path_, unknown).parent_path();
    if (unknown || std::filesystem::space(folder, unknown).available < kFreeBytesMin || unknown) {
        return false;
    }
    if (const auto made = write_file_durably(path_, incompressible(kReserveBytes), 0600); !made) {
        log_warn("no room could be reserved for a full disk", {{"error", made.error().message}});
        return false;
    }
    return true;
}

bool Reserve::release() {
    std::error_code ignored;
    return std::filesystem::remove(path_, ignored);
}

}  // namespace sigmacast::storage
