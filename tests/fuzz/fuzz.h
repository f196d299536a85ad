// What the fuzz targets share: reading an input piece by piece, and saying what does not hold.
//
// A target is a .cc with LLVMFuzzerTestOneInput() over the real code behind one input boundary. It
// asserts what that code promises with require(), which ends the process; a sanitizer's finding
// does the same. Inputs are kept in corpus/TARGET, findings in regressions/TARGET.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace sigmacast::fuzz {

inline void require(bool holds, std::string_view what, std::string_view detail = {}) {
    if (!holds) {
        std::cerr << "DOES NOT HOLD: " << what << ": " << detail << '\n';
        std::abort();
    }
}

/// Takes an input from its start; what is not there any more reads as zero or empty.
class Input {
 public:
    Input(const std::uint8_t* data, std::size_t size)
        : rest_(reinterpret_cast<const char*>(data), size) {}
    explicit Input(std::string_view text) : rest_(text) {}

    [[nodiscard]] bool empty() const { return rest_.empty(); }
    std::uint8_t byte() {
        const std::string_view taken = take(1);
        return taken.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(taken[0]);
    }
    /// Eight bytes, the lowest first.
    std::uint64_t number() {
        std::uint64_t number = 0;
        for (int shift = 0; shift < 64; shift += 8) {
            number |= std::uint64_t{byte()} << shift;
        }
        return number;
    }
    std::string_view take(std::size_t size) {
        const std::string_view taken = rest_.substr(0, size);
        rest_.remove_prefix(taken.size());
        return taken;
    }
    std::string_view rest() { return take(rest_.size()); }

 private:
    std::string_view rest_;
};

/// Separates binary pieces: 0xC1 begins no msgpack value, 0xFF is in no UTF-8.
inline constexpr std::string_view kSeparator = "\xC1\xFF";

inline std::vector<std::string> split(std::string_view text,
                                      std::string_view separator = kSeparator) {
    std::vector<std::string> parts;
    for (;;) {
        const std::size_t end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) {
            return parts;
        }
        text.remove_prefix(end + separator.size());
    }
}

/// By the definition (RFC 3629), not by the code under test.
inline bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i++]);
        const int more = lead < 0x80             ? 0
                         : (lead & 0xE0) == 0xC0 ? 1
                         : (lead & 0xF0) == 0xE0 ? 2
                         : (lead & 0xF8) == 0xF0 ? 3
                                                 : -1;
        if (more < 0) {
            return false;
        }
        std::uint32_t point = more == 0 ? lead : lead & (0x3Fu >> more);
        for (int k = 0; k < more; ++k, ++i) {
            if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
                return false;
            }
            point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
        }
        constexpr std::uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
        if (point < kLeast[more] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) {
            return false;
        }
    }
    return true;
}

}  // namespace sigmacast::fuzz
