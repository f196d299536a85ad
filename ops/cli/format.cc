#include "ops/cli/format.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace sigmacast::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kSummaryBytesMax = 160;
constexpr std::size_t kCellBytesMax = 60;

std::string fixed(double value, int digits) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.*f", digits, value);
    return text.data();
}

std::optional<double> number(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    if (!value || !value->is_number()) {
        return std::nullopt;
    }
    return value->to_number<double>();
}

std::string text(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::optional<Wall> moment(const json::object& object, std::string_view name) {
    const auto parsed = parse_rfc3339(text(object, name));
    return parsed ? std::optional<Wall>(*parsed) : std::nullopt;
}

/// Joins what is not empty.
std::string join(const std::vector<std::string>& parts) {
    std::string joined;
    for (const std::string& part : parts) {
        if (!part.empty()) {
            joined += (joined.empty() ? "" : ", ") + part;
        }
    }
    return joined;
}

std::string figure(const json::object& data, std::string_view name, std::string_view label,
                   std::string_view unit, int digits = 0) {
    const auto value = number(data, name);
    if (!value) {
        return {};
    }
    return std::string(label) + (label.empty() ? "" : " ") + fixed(*value, digits) +
           std::string(unit);
}

std::string system_summary(const json::object& data) {
    std::string load;
    if (const json::value* average = data.if_contains("load_average");
        average && average->is_object()) {
        load = figure(average->get_object(), "load1", "load", "", 2);
    }
    const auto uptime = number(data, "uptime");
    return join(
        {text(data, "hostname"), figure(data, "cpu_usage", "cpu", " %", 1),
         figure(data, "memory_pct", "memory", " %", 1), load,
         uptime ? "up " + age_text(Millis(static_cast<std::int64_t>(*uptime * 1000))) : ""});
}

std::string job_summary(const json::object& data) {
    if (data.contains("total_jobs")) {
        return join({figure(data, "total_running", "", " running"),
                     figure(data, "total_pending", "", " pending"),
                     figure(data, "total_jobs", "", " in all")});
    }
    const auto ratio = number(data, "compression_ratio");
    return join({text(data, "status"), figure(data, "progress", "", " %"), text(data, "phase"),
                 ratio && *ratio > 0 ? "ratio " + fixed(*ratio, 2) : "", text(data, "input_path")});
}

std::string agents_summary(const json::object& data) {
    return join(
        {figure(data, "total_agents", "", " agents"), figure(data, "active_agents", "", " busy"),
         figure(data, "idle_agents", "", " idle"), figure(data, "error_agents", "", " in error")});
}

std::string pool_summary(const json::value& value) {
    if (!value.is_object()) {
        return {};
    }
    const json::object& pool = value.get_object();
    std::string line = text(pool, "name") + " " + text(pool, "state");
    if (const auto used = number(pool, "capacity")) {
        line += " " + fixed(*used, 0) + " %";
    }
    return line;
}

std::string count_text(std::size_t count, const std::string& what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string storage_summary(const json::object& data) {
    std::vector<std::string> parts;
    if (const json::value* pools = data.if_contains("pools"); pools && pools->is_array()) {
        parts.push_back(count_text(pools->get_array().size(), "pool"));
        for (const json::value& pool : pools->get_array()) {
            parts.push_back(pool_summary(pool));
        }
    }
    if (const json::value* disks = data.if_contains("disks"); disks && disks->is_array()) {
        parts.push_back(count_text(disks->get_array().size(), "disk"));
        for (const json::value& disk : disks->get_array()) {
            parts.push_back(disk.is_object() ? text(disk.get_object(), "name") : "");
        }
    }
    return join(parts);
}

std::string failures_text(double failures) {
    return failures <= 0 ? ""
                         : fixed(failures, 0) + (failures < 2 ? " failure" : " failures in a row");
}

std::string breaker_summary(const json::object& data) {
    const auto failures = number(data, "consecutive_failures").value_or(0);
    if (failures <= 0 && text(data, "state") == "closed") {
        return "closed";  // Its last error is past.
    }
    return join({text(data, "state"), failures_text(failures), text(data, "last_error")});
}

std::string rpc_error_summary(const json::object& data) {
    const auto failures = number(data, "consecutive_failures").value_or(0);
    return text(data, "poll") +
           " failed: " + join({text(data, "message"), failures_text(failures)});
}

std::string breaker_event_summary(const json::object& data) {
    const auto failures = number(data, "failures").value_or(0);
    return join({text(data, "breaker"), failures_text(failures), text(data, "reason")});
}

std::string plain(const json::value& value) {
    switch (value.kind()) {
        case json::kind::null:
            return "-";
        case json::kind::string:
            return std::string(value.get_string());
        case json::kind::double_: {
            const double number = value.get_double();
            return fixed(number, number == std::floor(number) ? 0 : 2);
        }
        case json::kind::array:
            return "[" + std::to_string(value.get_array().size()) + "]";
        case json::kind::object:
            return "{" + std::to_string(value.get_object().size()) + "}";
        default:
            return json::serialize(value);
    }
}

std::string any_summary(const json::object& data) {
    std::vector<std::string> parts;
    for (const auto& member : data) {
        const std::string_view name = member.key();
        if (name == "timestamp" || name == "stale" || name == "error_code" ||
            name == "last_update") {
            continue;
        }
        parts.push_back(std::string(name) + " " + plain(member.value()));
        if (parts.size() == 8) {
            break;
        }
    }
    return join(parts);
}

/// Characters that a terminal shows, more or less: bytes that do not continue a UTF-8 sequence.
std::size_t width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    }));
}

}  // namespace

bool wants_color(bool is_terminal, const char* no_color, const char* term) {
    return is_terminal && !(no_color && *no_color) && !(term && std::string_view(term) == "dumb");
}

std::string Paint::wrap(std::string_view code, std::string_view text) const {
    if (!color_) {
        return std::string(text);
    }
    return "\x1b[" + std::string(code) + "m" + std::string(text) + "\x1b[0m";
}

std::string Paint::quality(std::string_view quality, std::string_view text) const {
    if (quality == "live" || quality == "ready" || quality == "closed") {
        return wrap("32", text);
    }
    if (quality == "stale" || quality == "half_open") {
        return wrap("33", text);
    }
    if (quality == "down" || quality == "open" || quality == "not ready") {
        return wrap("31", text);
    }
    return wrap("2", text);
}

std::string Paint::faint(std::string_view text) const {
    return wrap("2", text);
}

std::string Paint::bold(std::string_view text) const {
    return wrap("1", text);
}

std::string age_text(Millis age) {
    const std::int64_t ms = std::max<std::int64_t>(0, age.count());
    const std::int64_t s = ms / 1000;
    if (s < 10) {
        return std::to_string(s) + "." + std::to_string(ms % 1000 / 100) + " s";
    }
    if (s < 60) {
        return std::to_string(s) + " s";
    }
    if (s < 3600) {
        return std::to_string(s / 60) + " min " + std::to_string(s % 60) + " s";
    }
    if (s < 86'400) {
        return std::to_string(s / 3600) + " h " + std::to_string(s % 3600 / 60) + " min";
    }
    return std::to_string(s / 86'400) + " d " + std::to_string(s % 86'400 / 3600) + " h";
}

std::string countdown_text(Millis left) {
    const long long s = std::max<long long>(0, (left.count() + 999) / 1000);
    std::array<char, 64> text{};
    if (s < 3600) {
        std::snprintf(text.data(), text.size(), "%lld:%02lld", s / 60, s % 60);
    } else {
        std::snprintf(text.data(), text.size(), "%lld:%02lld:%02lld", s / 3600, s % 3600 / 60,
                      s % 60);
    }
    return text.data();
}

std::string local_clock(Wall wall, bool date) {
    const std::time_t seconds = static_cast<std::time_t>(unix_seconds(wall));
    std::tm local{};
    localtime_r(&seconds, &local);
    std::array<char, 64> text{};
    std::strftime(text.data(), text.size(), date ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &local);
    return text.data();
}

std::string bytes_text(double bytes) {
    constexpr std::array<const char*, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    std::size_t unit = 0;
    while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) {
        bytes /= 1024;
        ++unit;
    }
    return fixed(bytes, unit == 0 || bytes >= 100 ? 0 : 1) + " " + kUnits.at(unit);
}

std::string clean(std::string_view text, std::size_t bytes_max) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        const bool continues = (byte & 0xC0) == 0x80;
        if (out.size() >= bytes_max && !continues) {
            return out + "\xE2\x80\xA6";
        }
        // C1 controls are U+0080 to U+009F: the bytes C2 80 to C2 9F.
        const bool c1 =
            byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
        if (byte < 0x20 || byte == 0x7F || c1) {
            out += "\xEF\xBF\xBD";
            i += c1 ? 1 : 0;
        } else {
            out += text[i];
        }
    }
    return out;
}

AgeView age_of(const json::object& envelope) {
    AgeView age;
    age.quality = text(envelope, "quality");
    if (const auto ms = number(envelope, "age_ms")) {
        age.age = Millis(static_cast<std::int64_t>(*ms));
    }
    age.as_of = moment(envelope, "as_of");
    const json::value* uncertain = envelope.if_contains("age_uncertain");
    age.uncertain = uncertain && uncertain->is_bool() && uncertain->get_bool();
    age.reason = text(envelope, "reason");
    age.source = text(envelope, "source");
    age.retry_at = moment(envelope, "retry_at");
    return age;
}

std::string_view reason_words(std::string_view reason) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kWords{{
        {"RPC_DISCONNECT", "the engine cannot be reached"},
        {"CIRCUIT_BREAKER_OPEN", "the engine failed repeatedly, polling rests"},
        {"METHOD_NOT_FOUND", "not offered by this engine"},
        {"NOT_LISTED", "the engine's lists do not name it"},
        {"POLL_SILENT", "the producer reports nothing about it"},
        {"PRODUCER_SILENT", "the producer is silent, or has ended"},
        {"BROKER_RESTARTED", "the broker has just started, no answer since"},
        {"BROKER_UNREACHABLE", "the edge cannot reach the broker"},
        {"STATE_FULL", "the broker has no room for the new value"},
        {"CONNECTION_DROP", "the connection broke off"},
        {"NOT_ENCODABLE", "the newest value cannot be shown"},
        {"EDGE_FULL", "the edge has no room for the newest value"},
    }};
    for (const auto& [code, words] : kWords) {
        if (code == reason) {
            return words;
        }
    }
    return {};
}

bool not_offered(const AgeView& age) {
    return age.quality == "down" && age.reason == "METHOD_NOT_FOUND";
}

std::string quality_sentence(const AgeView& age, Wall now) {
    std::string out = clean(age.quality);
    if (!age.reason.empty()) {
        out += ": " + clean(age.reason);
    }
    if (!age.source.empty()) {
        out += " (" + clean(age.source) + ")";
    }
    if (age.as_of) {
        const bool today = std::chrono::abs(now - *age.as_of) < std::chrono::hours(20);
        out += ", as of " + local_clock(*age.as_of, !today);
    }
    if (age.age) {
        out += std::string(", ") + (age.uncertain ? "about " : "") + age_text(*age.age) + " old";
    }
    if (age.retry_at) {
        out += *age.retry_at > now ? ", retry in " + countdown_text(*age.retry_at - now)
                                   : std::string(", retry due");
    }
    return out;
}

std::string summary(std::string_view topic, const json::object& data) {
    std::string line;
    if (topic == "system.status") {
        line = system_summary(data);
    } else if (topic == "compression.update") {
        line = job_summary(data);
    } else if (topic == "agent.status") {
        line = agents_summary(data);
    } else if (topic == "storage.update") {
        line = storage_summary(data);
    } else if (topic == "breaker.status") {
        line = breaker_summary(data);
    } else if (topic == "rpc_error" && data.contains("poll")) {
        line = rpc_error_summary(data);
    } else if (topic.starts_with("circuit_breaker.") && data.contains("breaker")) {
        line = breaker_event_summary(data);
    }
    return clean(line.empty() ? any_summary(data) : line, kSummaryBytesMax);
}

std::string table(const std::vector<std::string>& head, const std::vector<std::vector<Cell>>& rows,
                  const Paint& paint) {
    std::vector<std::size_t> widths(head.size(), 0);
    for (std::size_t column = 0; column < head.size(); ++column) {
        widths[column] = width(head[column]);
        for (const auto& row : rows) {
            if (column < row.size()) {
                widths[column] =
                    std::max(widths[column], width(clean(row[column].text, kCellBytesMax)));
            }
        }
    }
    const auto put = [&](std::string& line, std::size_t column, const std::string& shown,
                         const std::string& painted) {
        line += painted;
        if (column + 1 < head.size()) {
            line.append(widths[column] - width(shown) + 2, ' ');
        }
    };
    std::string out;
    std::string line;
    for (std::size_t column = 0; column < head.size(); ++column) {
        put(line, column, head[column], paint.bold(head[column]));
    }
    out += line + "\n";
    for (const auto& row : rows) {
        line.clear();
        for (std::size_t column = 0; column < row.size() && column < head.size(); ++column) {
            // The last column takes what it needs; the others are kept short, so that lines stay
            // readable.
            const bool last = column + 1 == head.size();
            const std::string shown = clean(row[column].text, last ? 300 : kCellBytesMax);
            const std::string painted =
                row[column].quality.empty() ? shown : paint.quality(row[column].quality, shown);
            put(line, column, shown, painted);
        }
        while (!line.empty() && line.back() == ' ') {
            line.pop_back();
        }
        out += line + "\n";
    }
    return out;
}

}  // namespace sigmacast::cli
