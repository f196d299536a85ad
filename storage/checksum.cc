#include "storage/checksum.h"

#include <array>
#include <cstddef>

namespace sigmacast::storage {
namespace {

// The reflected polynomial of IEEE 802.3, eight tables wide: eight bytes a step.
constexpr std::uint32_t kPolynomial = 0xEDB88320U;
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc & 1U) != 0 ? (crc >> 1) ^ kPolynomial : crc >> 1;
        }
        tables[0][byte] = crc;
    }
    for (std::size_t slice = 1; slice < 8; ++slice) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[slice - 1][byte];
            tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xFFU];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

Checksum& Checksum::add(std::string_view bytes) {
    add_number(bytes.size());
    feed(bytes.data(), bytes.size());
    return *this;
}

Checksum& Checksum::add_number(std::uint64_t number) {
    std::array<unsigned char, 8> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<unsigned char>(number >> (8 * i));
    }
    feed(bytes.data(), bytes.size());
    return *this;
}

void Checksum::feed(const void* bytes, std::size_t size) {
    const auto* at = static_cast<const unsigned char*>(bytes);
    std::uint32_t crc = ~crc_;
    for (; size >= 8; size -= 8, at += 8) {
        crc ^= static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
               static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
        crc = kTables[7][crc & 0xFFU] ^ kTables[6][(crc >> 8) & 0xFFU] ^
              kTables[5][(crc >> 16) & 0xFFU] ^ kTables[4][crc >> 24] ^ kTables[3][at[4]] ^
              kTables[2][at[5]] ^ kTables[1][at[6]] ^ kTables[0][at[7]];
    }
    for (; size > 0; --size, ++at) {
        crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xFFU];
    }
    crc_ = ~crc;
}

}  // namespace sigmacast::storage
