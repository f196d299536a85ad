// The members of a msgpack map by name, as bus headers and repair messages use them: defaults are
// left out when written, unknown members are skipped when read. For message.cc and protocol.cc
// alone, since it includes msgpack.
//
// A Reader throws Failure at the first member that is not what it should be; decode() catches it
// and returns the Error. It refers to an Unpacked, and that to its bytes, which must outlive it.
#pragma once

#include <cstdint>
#include <msgpack.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/message.h"

namespace sigmacast::fields {

struct Failure {
    Error error;
};

struct Sink {
    std::string& out;
    void write(const char* data, std::size_t size) { out.append(data, size); }
};
using Packer = msgpack::packer<Sink>;

/// Ages and durations beyond a hundred years are no ages: sums of them stay far from overflow.
inline constexpr std::uint64_t kDurationMaxMs = 100ull * 366 * 24 * 3600 * 1000;
/// The end of the year 9999, the last that RFC 3339 can write.
inline constexpr std::uint64_t kWallMaxMs = 253'402'300'799'999;

void pack_text(Packer& packer, std::string_view text);

/// Collects members; a put without a condition in its name leaves the default out (empty, 0,
/// false).
class Writer {
 public:
    Writer() { members_.reserve(kUsualBytes); }
    void text(std::string_view name, std::string_view value);
    void number(std::string_view name, std::uint64_t value);
    void flag(std::string_view name, bool value);
    void duration(std::string_view name, Millis value);
    void wall(std::string_view name, Wall value);
    /// Written when it is set, whatever it is.
    void wall(std::string_view name, const std::optional<Wall>& value);
    /// `as_of` in wall milliseconds and `age` in whole milliseconds, rounded up: no hop makes a
    /// value younger.
    void as_of(const std::optional<AsOf>& value, Mono now);
    void age(const Age& value, Mono now);
    /// Written even when it is empty.
    void texts(std::string_view name, const std::vector<std::string>& values);
    void map(std::string_view name, Writer value);

    /// An array of what `write(Packer&, item)` writes; left out when empty.
    template <class Items, class Write>
    void array(std::string_view name, const Items& items, Write write) {
        if (items.empty()) {
            return;
        }
        std::string bytes;
        Sink sink{bytes};
        Packer packer(sink);
        packer.pack_array(static_cast<std::uint32_t>(items.size()));
        for (const auto& item : items) {
            write(packer, item);
        }
        member(name, bytes);
    }
    /// An array of maps; `write(Writer&, item)` fills one.
    template <class Items, class Write>
    void maps(std::string_view name, const Items& items, Write write) {
        array(name, items, [&](Packer& packer, const auto& item) {
            Writer writer;
            write(writer, item);
            const std::string bytes = std::move(writer).finish();
            packer.pack_bin_body(bytes.data(), static_cast<std::uint32_t>(bytes.size()));
        });
    }

    /// The whole map.
    [[nodiscard]] std::string finish() &&;

 private:
    static constexpr std::size_t kUsualBytes = 192;  // Of a header; it grows where it has to.

    void member(std::string_view name, std::string_view value_bytes);

    std::string members_;
    std::uint32_t count_ = 0;
};

struct UnpackLimits {
    std::size_t array_max = 65'536;
};

/// One map and nothing after it.
class Unpacked {
 public:
    /// Throws Failure.
    Unpacked(std::string_view bytes, std::string_view where, UnpackLimits limits = {});
    [[nodiscard]] const msgpack::object& object() const { return object_; }

 private:
    // What a header needs: by default it is 8 KiB, which no allocator has at hand.
    static constexpr std::size_t kZoneBytes = 960;

    msgpack::zone zone_{kZoneBytes};
    msgpack::object object_;
};

class Reader {
 public:
    /// Throws Failure where `object` is not a map with strings as names. `where` names it in
    /// errors.
    Reader(const msgpack::object& object, std::string where);

    /// Throws Failure (kUnsupported) where `v` is higher than ours, (kInvalid) where it is missing.
    void check_version() const;

    [[nodiscard]] std::string text(std::string_view name) const;
    /// A topic's or a poll's name (check_name), or nothing.
    [[nodiscard]] std::string name(std::string_view name) const;
    [[nodiscard]] std::uint64_t number(std::string_view name,
                                       std::uint64_t most = ~std::uint64_t{0}) const;
    [[nodiscard]] bool flag(std::string_view name) const;
    [[nodiscard]] Millis duration(std::string_view name) const;
    [[nodiscard]] std::optional<Wall> wall(std::string_view name) const;
    [[nodiscard]] std::optional<AsOf> as_of(Now now) const;
    [[nodiscard]] Age age(Now now) const;
    [[nodiscard]] std::optional<std::vector<std::string>> texts(std::string_view name) const;
    [[nodiscard]] std::optional<Reader> map(std::string_view name) const;
    /// Calls `read(Reader)` for each map of an array.
    template <class Read>
    void maps(std::string_view name, Read read) const {
        for (const msgpack::object& item : items(name)) {
            read(Reader(item, within(name)));
        }
    }

    struct Items {
        const msgpack::object* first = nullptr;
        const msgpack::object* last = nullptr;
        [[nodiscard]] const msgpack::object* begin() const { return first; }
        [[nodiscard]] const msgpack::object* end() const { return last; }
        [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(last - first); }
    };
    /// An array's items; none where it is left out.
    [[nodiscard]] Items items(std::string_view name) const;

    [[noreturn]] void fail(std::string_view name, std::string_view why) const;
    [[nodiscard]] std::string within(std::string_view name) const;

 private:
    [[nodiscard]] const msgpack::object* find(std::string_view name) const;

    const msgpack::object_map* map_;
    std::string where_;
};

/// The items of an array that stands for a small struct: at least `least` of them, more are
/// skipped.
class Tuple {
 public:
    Tuple(const msgpack::object& object, std::size_t least, const Reader& reader,
          std::string_view name);
    [[nodiscard]] std::string text(std::size_t index) const;
    [[nodiscard]] std::uint64_t number(std::size_t index) const;
    [[nodiscard]] std::size_t size() const { return items_->size; }

 private:
    const msgpack::object_array* items_;
    const Reader& reader_;
    std::string_view name_;
};

// Parts that bus headers and repair messages share.
void put_report(Writer& writer, const Report& report, Mono now);
Report get_report(const Reader& reader, Now now);
void put_marks(Writer& writer, std::string_view name, const std::vector<Mark>& marks);
std::vector<Mark> get_marks(const Reader& reader, std::string_view name);
void put_streams(Writer& writer, const std::vector<StreamHead>& streams);
std::vector<StreamHead> get_streams(const Reader& reader);
void put_polls(Writer& writer, const std::vector<PollState>& polls, Mono now);
std::vector<PollState> get_polls(const Reader& reader, Now now);

}  // namespace sigmacast::fields
