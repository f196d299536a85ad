// A CRC-32 over the columns of a row, so that a torn or rotten row is found when it is read and not
// believed. Each string counts with its length: two columns cannot borrow bytes from one another.
// Values; no thread of their own.
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

namespace sigmacast::storage {

class Checksum {
 public:
    Checksum& add(std::string_view bytes);
    template <std::integral T>
    Checksum& add(T number) {
        return add_number(static_cast<std::uint64_t>(number));
    }
    [[nodiscard]] std::int64_t value() const { return static_cast<std::int64_t>(crc_); }

 private:
    Checksum& add_number(std::uint64_t number);
    void feed(const void* bytes, std::size_t size);

    std::uint32_t crc_ = 0;
};

template <class... Columns>
std::int64_t checksum(const Columns&... columns) {
    Checksum sum;
    (sum.add(columns), ...);
    return sum.value();
}

}  // namespace sigmacast::storage
