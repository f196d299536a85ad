// How `sigmacast` shows things to a person: ages, times, qualities, one-line summaries of data,
// tables. Text that came from outside is cleaned of control characters, so that no event can steer
// a terminal. Pure; thread safe (no state).
#pragma once

#include <boost/json/fwd.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/time.h"

namespace sigmacast::cli {

/// Whether colours are wanted: on a terminal, unless NO_COLOR is set (to anything but nothing) or
/// TERM is dumb.
bool wants_color(bool is_terminal, const char* no_color, const char* term);

class Paint {
 public:
    explicit Paint(bool color) : color_(color) {}
    [[nodiscard]] std::string quality(std::string_view quality, std::string_view text) const;
    [[nodiscard]] std::string faint(std::string_view text) const;
    [[nodiscard]] std::string bold(std::string_view text) const;

 private:
    [[nodiscard]] std::string wrap(std::string_view code, std::string_view text) const;
    bool color_;
};

/// "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "4 d 3 h".
std::string age_text(Millis age);
/// "4:48", "1:02:03": what is left until something.
std::string countdown_text(Millis left);
/// "01:02:03" in this machine's time zone; with `date`, "2026-11-20 01:02:03".
std::string local_clock(Wall wall, bool date = false);
/// "3.1 GiB"
std::string bytes_text(double bytes);

/// Control characters (C0, DEL, C1) become U+FFFD, and what is longer than `bytes_max` ends in an
/// ellipsis.
std::string clean(std::string_view text, std::size_t bytes_max = 200);

/// What a quality rests on, as an envelope, a source or a row of state says it.
struct AgeView {
    std::string quality;
    std::optional<Millis> age;
    std::optional<Wall> as_of;
    bool uncertain = false;
    std::string reason;
    std::string source;
    std::optional<Wall> retry_at;
};
AgeView age_of(const boost::json::object& envelope);

/// What a reason means, in a few words; empty for those of single methods and unknown ones.
std::string_view reason_words(std::string_view reason);
/// Whether nothing is wrong though there is no value: the engine has no such method.
bool not_offered(const AgeView& age);

/// "stale: RPC_DISCONNECT (engine), as of 01:02:03, 12 s old, retry in 4:48"
std::string quality_sentence(const AgeView& age, Wall now);

/// The data of an event in one short line: what matters for known topics, the first members of
/// others.
std::string summary(std::string_view topic, const boost::json::object& data);

/// Columns aligned with spaces. Colour is put on after padding: `cells` are plain, `paint` may wrap
/// a cell.
struct Cell {
    std::string text;
    std::string quality;  // When set, the cell is painted in its colour.
};
std::string table(const std::vector<std::string>& head, const std::vector<std::vector<Cell>>& rows,
                  const Paint& paint);

}  // namespace sigmacast::cli
