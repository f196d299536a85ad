#include "common/random.h"

#include <array>

namespace sigmacast {

Random Random::from_system() {
    // 64 bits of seed would bound the log's 128-bit epoch to 64 bits of chance.
    std::random_device device;
    std::array<std::random_device::result_type, 16> words{};
    for (auto& word : words) {
        word = device();
    }
    std::seed_seq seed(words.begin(), words.end());
    Random random(0);
    random.engine_.seed(seed);
    return random;
}

std::uint64_t Random::between(std::uint64_t low, std::uint64_t high) {
    if (high <= low) {
        return low;
    }
    return std::uniform_int_distribution<std::uint64_t>(low, high)(engine_);
}

Millis Random::upto(Millis most) {
    if (most <= Millis{0}) {
        return Millis{0};
    }
    return Millis{static_cast<Millis::rep>(between(0, static_cast<std::uint64_t>(most.count())))};
}

std::string Random::hex(std::size_t bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    text.reserve(bytes * 2);
    for (std::size_t i = 0; i < bytes * 2; ++i) {
        text.push_back(kDigits[between(0, 15)]);
    }
    return text;
}

std::string Random::uuid() {
    std::string id = hex(16);
    id[12] = '4';                    // Version 4, RFC 4122 section 4.4.
    id[16] = "89ab"[between(0, 3)];  // Its variant.
    for (const std::size_t dash : {20u, 16u, 12u, 8u}) {
        id.insert(dash, 1, '-');
    }
    return id;
}

}  // namespace sigmacast
