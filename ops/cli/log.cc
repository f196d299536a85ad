#include <algorithm>
#include <boost/json.hpp>
#include <string>

#include "common/codec.h"
#include "ops/cli/commands.h"
#include "ops/cli/output.h"
#include "storage/reader.h"

namespace sigmacast::cli {
namespace {

std::string kind_name(Kind kind) {
    switch (kind) {
        case Kind::kValue:
            return "value";
        case Kind::kEvent:
            return "event";
        case Kind::kTransition:
            return "transition";
        case Kind::kGap:
            return "gap";
        default:
            return "other";
    }
}

std::string data_text(const Message& message) {
    std::string text;
    if (!message.data || !append_json(text, *message.data)) {
        return "null";
    }
    return text;
}

void member(std::string& out, std::string_view name, std::string_view text) {
    out += ",\"" + std::string(name) + "\":";
    append_json_string(out, text);
}

std::string json_line(const storage::LogEntry& entry) {
    const Message& row = entry.message;
    std::string out = "{\"pos\":" + std::to_string(row.pos);
    member(out, "committed", to_rfc3339(entry.committed));
    member(out, "kind", kind_name(row.kind));
    member(out, "type", row.topic);
    member(out, "origin", row.origin);
    if (!row.key.empty()) {
        member(out, "key", row.key);
    }
    out += ",\"seq\":" + std::to_string(row.seq);
    if (row.kind == Kind::kGap) {
        out += ",\"lost_to\":" + std::to_string(row.gap().to);
        member(out, "why", row.gap().why);
    } else if (row.kind != Kind::kEvent) {
        member(out, "quality", to_string(row.age.quality));
        if (row.age.as_of) {
            member(out, "as_of", to_rfc3339(row.age.as_of->wall));
        }
        if (!row.age.reason.empty()) {
            member(out, "reason", row.age.reason);
        }
        if (!row.age.source.empty()) {
            member(out, "source", row.age.source);
        }
    }
    if (row.final) {
        out += ",\"final\":true";
    }
    if (row.data) {
        out += ",\"data\":" + data_text(row);
    }
    return out + "}\n";
}

std::string what_text(const Message& row, Wall now) {
    if (row.kind == Kind::kGap) {
        return "lost up to " + std::to_string(row.gap().to) + ": " + clean(row.gap().why);
    }
    if (row.kind == Kind::kTransition) {
        AgeView age;
        age.quality = to_string(row.age.quality);
        age.as_of = row.age.as_of ? std::optional<Wall>(row.age.as_of->wall) : std::nullopt;
        age.reason = row.age.reason;
        age.source = row.age.source;
        return quality_sentence(age, now);
    }
    const auto data = parse_json(data_text(row));
    const std::string text =
        data && data->is_object() ? summary(row.topic, data->get_object()) : std::string();
    return row.final ? "ended: " + text : text;
}

std::vector<Cell> row_of(const storage::LogEntry& entry, Wall now) {
    const Message& row = entry.message;
    const std::string quality =
        row.kind == Kind::kTransition ? std::string(to_string(row.age.quality)) : std::string();
    return {{std::to_string(row.pos), {}},
            {local_clock(entry.committed, true), {}},
            {kind_name(row.kind), quality},
            {row.key.empty() ? row.topic : row.topic + "/" + row.key, {}},
            {row.origin, {}},
            {std::to_string(row.seq), {}},
            {what_text(row, now), {}}};
}

}  // namespace

int run_log(const LogCommand& command) {
    const Now now = system_now();
    auto reader = storage::LogReader::open(command.database);
    if (!reader) {
        complain(reader.error().message);
        return kExitFailed;
    }
    storage::LogQuery query;
    query.origin = command.origin;
    query.topic = command.topic;
    query.from_pos = command.from;
    query.to_pos = std::min<std::uint64_t>(command.to, query.to_pos);
    query.max = command.limit;
    // Where a beginning is given, reading goes on from there; else the newest rows are wanted.
    query.newest_first = command.from == 0 && command.since.empty();
    if (!command.since.empty()) {
        query.since = parse_moment(command.since, now.wall).value();
    }
    if (!command.until.empty()) {
        query.until = parse_moment(command.until, now.wall).value();
    }
    auto entries = reader->read(query, now);
    if (!entries) {
        complain(entries.error().message);
        return kExitFailed;
    }
    if (query.newest_first) {
        std::reverse(entries->begin(), entries->end());
    }
    if (command.json) {
        for (const storage::LogEntry& entry : *entries) {
            if (!print(json_line(entry))) {
                return kExitOk;
            }
        }
        return kExitOk;
    }
    if (entries->empty()) {
        remark("No row matches.");
        return kExitOk;
    }
    std::vector<std::vector<Cell>> rows;
    for (const storage::LogEntry& entry : *entries) {
        rows.push_back(row_of(entry, now.wall));
    }
    (void)print(table({"pos", "committed", "kind", "topic", "origin", "seq", "what"}, rows,
                      paint_for_stdout()));
    if (entries->size() == command.limit) {
        remark("The limit of " + std::to_string(command.limit) +
               " rows is reached; --from, --since and --limit choose others.");
    }
    return kExitOk;
}

}  // namespace sigmacast::cli
