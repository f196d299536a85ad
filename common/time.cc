#include "common/time.h"

#include <ctime>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>

namespace sigmacast {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::minutes;

// What RFC 3339 can write: years 0000 to 9999.
constexpr Wall kWallMin{Millis{-62'167'219'200'000}};
constexpr Wall kWallMax{Millis{253'402'300'799'999}};

// A hundred years: beyond any setting, and far from where a sum of milliseconds overflows.
constexpr double kDurationMaxMs = 100.0 * 366 * 24 * 3600 * 1000;

struct Unit {
    std::string_view name;
    double ms;
};
constexpr std::array<Unit, 7> kUnits{{{"ns", 1e-6},
                                      {"us", 1e-3},
                                      {"\xC2\xB5s", 1e-3},  // The micro sign, as Go prints it.
                                      {"ms", 1},
                                      {"s", 1000},
                                      {"m", 60'000},
                                      {"h", 3'600'000}}};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/// Reads text from left to right; every step says whether it found what it wanted.
class Scanner {
 public:
    explicit Scanner(std::string_view text) : rest_(text) {}

    /// Exactly `count` digits.
    std::optional<int> digits(std::size_t count) {
        if (rest_.size() < count || !std::all_of(rest_.begin(), rest_.begin() + count, is_digit)) {
            return std::nullopt;
        }
        int value = 0;
        for (const char c : rest_.substr(0, count)) {
            value = value * 10 + (c - '0');
        }
        rest_.remove_prefix(count);
        return value;
    }
    bool one_of(std::string_view chars) {
        if (rest_.empty() || chars.find(rest_.front()) == std::string_view::npos) {
            return false;
        }
        last_ = rest_.front();
        rest_.remove_prefix(1);
        return true;
    }
    std::string_view run_of_digits() {
        const auto end = std::find_if_not(rest_.begin(), rest_.end(), is_digit);
        const auto run = rest_.substr(0, static_cast<std::size_t>(end - rest_.begin()));
        rest_.remove_prefix(run.size());
        return run;
    }
    [[nodiscard]] char last() const { return last_; }
    [[nodiscard]] bool done() const { return rest_.empty(); }
    [[nodiscard]] std::string_view rest() const { return rest_; }
    void skip(std::size_t count) { rest_.remove_prefix(count); }

 private:
    std::string_view rest_;
    char last_ = 0;
};

std::optional<days> scan_date(Scanner& scan) {
    const auto year = scan.digits(4);
    if (!year || !scan.one_of("-")) {
        return std::nullopt;
    }
    const auto month = scan.digits(2);
    if (!month || !scan.one_of("-")) {
        return std::nullopt;
    }
    const auto day = scan.digits(2);
    if (!day) {
        return std::nullopt;
    }
    const std::chrono::year_month_day date{std::chrono::year{*year},
                                           std::chrono::month{static_cast<unsigned>(*month)},
                                           std::chrono::day{static_cast<unsigned>(*day)}};
    if (!date.ok()) {
        return std::nullopt;
    }
    return std::chrono::sys_days{date}.time_since_epoch();
}

std::optional<Millis> scan_fraction(Scanner& scan) {
    if (!scan.one_of(".")) {
        return Millis{0};
    }
    const std::string_view digits = scan.run_of_digits();
    if (digits.empty()) {
        return std::nullopt;
    }
    int ms = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        ms = ms * 10 + (i < digits.size() ? digits[i] - '0' : 0);
    }
    return Millis{ms};
}

std::optional<Millis> scan_time_of_day(Scanner& scan) {
    const auto hour = scan.digits(2);
    if (!hour || *hour > 23 || !scan.one_of(":")) {
        return std::nullopt;
    }
    const auto minute = scan.digits(2);
    if (!minute || *minute > 59 || !scan.one_of(":")) {
        return std::nullopt;
    }
    const auto second = scan.digits(2);
    if (!second || *second > 60) {  // 60: RFC 3339's leap second, which is the next minute's first.
        return std::nullopt;
    }
    const auto fraction = scan_fraction(scan);
    if (!fraction) {
        return std::nullopt;
    }
    return hours{*hour} + minutes{*minute} + Seconds{*second} + *fraction;
}

std::optional<minutes> scan_offset(Scanner& scan) {
    if (scan.one_of("Zz")) {
        return minutes{0};
    }
    if (!scan.one_of("+-")) {
        return std::nullopt;
    }
    const bool behind = scan.last() == '-';
    const auto hour = scan.digits(2);
    if (!hour || *hour > 23 || !scan.one_of(":")) {
        return std::nullopt;
    }
    const auto minute = scan.digits(2);
    if (!minute || *minute > 59) {
        return std::nullopt;
    }
    const minutes offset = hours{*hour} + minutes{*minute};
    return behind ? -offset : offset;
}

Error bad_duration(std::string_view text, std::string_view why) {
    return {Errc::kInvalid, "\"" + std::string(text.substr(0, 64)) + "\" is not a duration: " +
                                std::string(why) + "; write it like 250ms, 1.5s, 5m or 2h45m"};
}

std::optional<double> scan_number(Scanner& scan) {
    const std::string_view whole = scan.run_of_digits();
    std::string_view fraction;
    if (scan.one_of(".")) {
        fraction = scan.run_of_digits();
    }
    if (whole.empty() && fraction.empty()) {
        return std::nullopt;
    }
    double value = 0;
    for (const char c : whole) {
        value = value * 10 + (c - '0');
    }
    double place = 0.1;
    for (const char c : fraction) {
        value += place * (c - '0');
        place /= 10;
    }
    return value;
}

const Unit* scan_unit(Scanner& scan) {
    // Letters up to the next digit, so that "5min" is refused rather than read as 5m and a rest.
    const auto end = std::find_if(scan.rest().begin(), scan.rest().end(),
                                  [](char c) { return is_digit(c) || c == '.'; });
    const auto name = scan.rest().substr(0, static_cast<std::size_t>(end - scan.rest().begin()));
    const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                   [&](const Unit& known) { return known.name == name; });
    if (unit == kUnits.end()) {
        return nullptr;
    }
    scan.skip(name.size());
    return &*unit;
}

}  // namespace

BootClock::time_point BootClock::now() noexcept {
    timespec ts{};
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return time_point{Micros{static_cast<rep>(ts.tv_sec) * 1'000'000 + ts.tv_nsec / 1000}};
}

Now system_now() noexcept {
    return {BootClock::now(), std::chrono::floor<Millis>(std::chrono::system_clock::now())};
}

const std::string& boot_id() {
    static const std::string id = [] {
        std::ifstream file("/proc/sys/kernel/random/boot_id");
        std::string line;
        std::getline(file, line);
        return line;
    }();
    return id;
}

std::string to_rfc3339(Wall wall) {
    const Wall time = std::clamp(wall, kWallMin, kWallMax);
    const auto day = std::chrono::floor<days>(time);
    const std::chrono::year_month_day date{day};
    const std::chrono::hh_mm_ss<Millis> clock{time - day};
    std::string text = "0000-00-00T00:00:00.000Z";
    // By hand: printf takes ten times as long, and a message has up to four of them.
    const auto write = [&text](std::size_t end, auto number) {
        for (auto rest = static_cast<unsigned>(number); rest > 0; rest /= 10) {
            text[--end] = static_cast<char>('0' + rest % 10);
        }
    };
    write(4, static_cast<int>(date.year()));
    write(7, static_cast<unsigned>(date.month()));
    write(10, static_cast<unsigned>(date.day()));
    write(13, clock.hours().count());
    write(16, clock.minutes().count());
    write(19, clock.seconds().count());
    write(23, clock.subseconds().count());
    return text;
}

Result<Wall> parse_rfc3339(std::string_view text) {
    Scanner scan(text);
    const auto date = scan_date(scan);
    const bool separated = date && scan.one_of("Tt");
    const auto time = separated ? scan_time_of_day(scan) : std::nullopt;
    const auto offset = time ? scan_offset(scan) : std::nullopt;
    if (!offset || !scan.done()) {
        return Error{Errc::kInvalid, "\"" + std::string(text.substr(0, 64)) +
                                         "\" is not an RFC 3339 time; write it like "
                                         "2026-11-20T23:58:24.912Z"};
    }
    return Wall{Millis{*date} + *time - Millis{*offset}};
}

std::int64_t unix_seconds(Wall wall) {
    return std::chrono::floor<Seconds>(wall).time_since_epoch().count();
}

Result<Millis> parse_duration(std::string_view text) {
    if (text == "0") {
        return Millis{0};
    }
    if (text.empty()) {
        return bad_duration(text, "it is empty");
    }
    Scanner scan(text);
    double ms = 0;
    while (!scan.done()) {
        if (scan.rest().front() == '-') {
            return bad_duration(text, "it is negative");
        }
        const auto number = scan_number(scan);
        if (!number) {
            return bad_duration(text, "a number is missing");
        }
        if (scan.done()) {
            return bad_duration(text, "the unit is missing");
        }
        const Unit* unit = scan_unit(scan);
        if (unit == nullptr) {
            return bad_duration(text, "its unit is not one of ns, us, ms, s, m, h");
        }
        ms += *number * unit->ms;
        if (!(ms <= kDurationMaxMs)) {
            return bad_duration(text, "it is over a hundred years");
        }
    }
    return Millis{std::llround(ms)};
}

std::string format_duration(Millis duration) {
    if (duration < Millis{0}) {
        return "-" + format_duration(-duration);
    }
    if (duration == Millis{0}) {
        return "0s";
    }
    if (duration < Seconds{1}) {
        return std::to_string(duration.count()) + "ms";
    }
    std::string text;
    const auto hour = std::chrono::floor<hours>(duration);
    const auto minute = std::chrono::floor<minutes>(duration - hour);
    const auto second = std::chrono::floor<Seconds>(duration - hour - minute);
    const Millis ms = duration - hour - minute - second;
    if (hour.count() > 0) {
        text += std::to_string(hour.count()) + "h";
    }
    if (minute.count() > 0) {
        text += std::to_string(minute.count()) + "m";
    }
    if (ms.count() > 0) {
        std::string fraction = std::to_string(1000 + ms.count()).substr(1);
        fraction.erase(fraction.find_last_not_of('0') + 1);
        text += std::to_string(second.count()) + "." + fraction + "s";
    } else if (second.count() > 0) {
        text += std::to_string(second.count()) + "s";
    }
    return text;
}

}  // namespace sigmacast
