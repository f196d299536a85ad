#include "common/protocol.h"

#include <algorithm>
#include <array>
#include <optional>

#include "common/fields.h"

namespace sigmacast::protocol {
namespace {

using fields::Failure;
using fields::Packer;
using fields::Reader;
using fields::Tuple;
using fields::Writer;

Writer start(std::string_view type) {
    Writer writer;
    writer.number("v", kBusVersion);
    writer.text("t", type);
    return writer;
}

Frames alone(Writer writer) {
    return {std::move(writer).finish()};
}

void append_records(Frames& frames, const std::vector<Message>& records, Mono now) {
    frames.reserve(frames.size() + 2 * records.size());
    for (const Message& record : records) {
        auto [header, body] = encode_record(record, now);
        frames.push_back(std::move(header));
        frames.push_back(body ? *body : std::string());
    }
}

struct Records {
    std::vector<Message> read;
    std::uint64_t unreadable = 0;
};

Records read_records(const Frames& frames, Now now) {
    Records records;
    records.read.reserve(frames.size() / 2);
    for (std::size_t i = 1; i + 1 < frames.size(); i += 2) {
        auto body = std::make_shared<const std::string>(frames[i + 1]);
        auto message = decode_record(frames[i], std::move(body), now);
        if (message) {
            records.read.push_back(std::move(*message));
        } else {
            // One poison record must not make the whole answer fail, again and again.
            ++records.unreadable;
        }
    }
    return records;
}

void put_range(Writer& writer, const sequence::Range& range) {
    writer.number("from", range.from);
    writer.number("to", range.to);
}

sequence::Range get_range(const Reader& reader) {
    return {reader.number("from"), reader.number("to")};
}

// ---- Writing: one overload a message ----

Frames write(const Hello& hello, Mono) {
    Writer writer = start("hello");
    writer.text("origin", hello.origin);
    writer.text("instance", hello.instance);
    writer.number("epoch", hello.epoch);
    writer.flag("again", !hello.first);
    writer.maps("polls", hello.polls, [](Writer& map, const DeclaredPoll& poll) {
        map.text("name", poll.name);
        map.text("topic", poll.topic);
        map.duration("interval", poll.interval);
        map.duration("deadline", poll.deadline);
    });
    return alone(std::move(writer));
}

Frames write(const Welcome& welcome, Mono) {
    Writer writer = start("welcome");
    writer.number("epoch", welcome.epoch);
    fields::put_marks(writer, "streams", welcome.streams);
    Frames frames = alone(std::move(writer));
    std::size_t room = kWelcomeDataMax;
    for (const LiveKey& live : welcome.keys) {  // Frames of their own: each frame is bounded.
        Writer header;
        header.text("topic", live.topic);
        header.text("poll", live.poll);
        header.text("key", live.key);
        frames.push_back(std::move(header).finish());
        const bool fits = live.data && live.data->size() <= room;
        room -= fits ? live.data->size() : 0;
        frames.push_back(fits ? *live.data : std::string());
    }
    return frames;
}

Frames write(const Conflict& conflict, Mono) {
    Writer writer = start("conflict");
    writer.number("floor", conflict.floor);
    return alone(std::move(writer));
}

Frames write(const Sync& sync, Mono) {
    Writer writer = start("sync");
    writer.text("origin", sync.origin);
    writer.text("instance", sync.instance);
    writer.number("epoch", sync.epoch);
    return alone(std::move(writer));
}

Frames write(const Durable& durable, Mono) {
    Writer writer = start("durable");
    writer.number("epoch", durable.epoch);
    fields::put_marks(writer, "streams", durable.streams);
    return alone(std::move(writer));
}

Frames write(const Unknown&, Mono) {
    return alone(start("unknown"));
}

Frames write(const Refused& refused, Mono) {
    Writer writer = start("refused");
    writer.text("why", refused.why);
    return alone(std::move(writer));
}

Frames write(const Ask& ask, Mono) {
    Writer writer = start("ask");
    writer.number("id", ask.id);
    writer.text("origin", ask.origin);
    writer.text("topic", ask.topic);
    put_range(writer, ask.range);
    return alone(std::move(writer));
}

Frames write(const Range& range, Mono now) {
    Writer writer = start("range");
    writer.number("id", range.id);
    writer.text("origin", range.origin);
    writer.text("topic", range.topic);
    writer.text("epoch", range.epoch);
    put_range(writer, range.range);
    writer.array("superseded", range.superseded,
                 [](Packer& packer, const sequence::Range& superseded) {
                     packer.pack_array(2);
                     packer.pack_uint64(superseded.from);
                     packer.pack_uint64(superseded.to);
                 });
    writer.number("newest", range.newest);
    Frames frames = alone(std::move(writer));
    append_records(frames, range.items, now);
    return frames;
}

Frames write(const SnapshotRequest& request, Mono) {
    Writer writer = start("get_snapshot");
    writer.number("id", request.id);
    writer.text("epoch", request.epoch);
    writer.number("pos", request.pos);
    return alone(std::move(writer));
}

Frames write(const Snapshot& snapshot, Mono now) {
    Writer writer = start("snapshot");
    writer.number("id", snapshot.id);
    writer.text("epoch", snapshot.epoch);
    writer.number("pos", snapshot.pos);
    fields::put_streams(writer, snapshot.streams);
    fields::put_polls(writer, snapshot.polls, now);
    Frames frames = alone(std::move(writer));
    append_records(frames, snapshot.values, now);
    return frames;
}

Frames write(const HistoryRequest& request, Mono) {
    Writer writer = start("get_history");
    writer.number("id", request.id);
    writer.text("epoch", request.epoch);
    writer.number("from", request.from);
    return alone(std::move(writer));
}

Frames write(const History& history, Mono now) {
    Writer writer = start("history");
    writer.number("id", history.id);
    writer.text("epoch", history.epoch);
    writer.number("from", history.from);
    writer.number("to", history.to);
    writer.number("pos", history.pos);
    writer.array("floors", history.floors, [](Packer& packer, const StreamFloor& floor) {
        packer.pack_array(3);
        fields::pack_text(packer, floor.origin);
        fields::pack_text(packer, floor.topic);
        packer.pack_uint64(floor.pos);
    });
    Frames frames = alone(std::move(writer));
    append_records(frames, history.items, now);
    return frames;
}

// ---- Reading: one function a message ----

struct Input {
    const Reader& reader;
    const Frames& frames;
    Now now;
};

Any read_hello(const Input& in) {
    Hello hello;
    hello.origin = in.reader.text("origin");
    hello.instance = in.reader.text("instance");
    hello.epoch = in.reader.number("epoch");
    hello.first = !in.reader.flag("again");
    if (const auto name = check_name("origin", hello.origin); !name) {
        throw Failure{name.error().within("hello")};
    }
    in.reader.maps("polls", [&](const Reader& map) {
        hello.polls.push_back({map.name("name"), map.name("topic"), map.duration("interval"),
                               map.duration("deadline")});
    });
    return hello;
}

Any read_welcome(const Input& in) {
    Welcome welcome;
    welcome.epoch = in.reader.number("epoch");
    welcome.streams = fields::get_marks(in.reader, "streams");
    for (std::size_t i = 1; i + 1 < in.frames.size(); i += 2) {
        const fields::Unpacked map(in.frames[i], "welcome.key");
        const Reader header(map.object(), "welcome.key");
        LiveKey& live = welcome.keys.emplace_back(
            LiveKey{header.text("topic"), header.text("poll"), header.text("key"), nullptr});
        if (!in.frames[i + 1].empty()) {
            live.data = std::make_shared<const std::string>(in.frames[i + 1]);
        }
    }
    return welcome;
}

Any read_conflict(const Input& in) {
    return Conflict{in.reader.number("floor")};
}

Any read_sync(const Input& in) {
    return Sync{in.reader.text("origin"), in.reader.text("instance"), in.reader.number("epoch")};
}

Any read_durable(const Input& in) {
    return Durable{in.reader.number("epoch"), fields::get_marks(in.reader, "streams")};
}

Any read_unknown(const Input&) {
    return Unknown{};
}

Any read_refused(const Input& in) {
    return Refused{in.reader.text("why")};
}

Any read_ask(const Input& in) {
    return Ask{in.reader.number("id"), in.reader.text("origin"), in.reader.text("topic"),
               get_range(in.reader)};
}

Any read_range(const Input& in) {
    Range range;
    range.id = in.reader.number("id");
    range.origin = in.reader.text("origin");
    range.topic = in.reader.text("topic");
    range.epoch = in.reader.text("epoch");
    range.range = get_range(in.reader);
    for (const msgpack::object& item : in.reader.items("superseded")) {
        const Tuple tuple(item, 2, in.reader, "superseded");
        range.superseded.push_back({tuple.number(0), tuple.number(1)});
    }
    range.newest = in.reader.number("newest");
    Records records = read_records(in.frames, in.now);
    range.items = std::move(records.read);
    range.unreadable = records.unreadable;
    return range;
}

Any read_get_snapshot(const Input& in) {
    return SnapshotRequest{in.reader.number("id"), in.reader.text("epoch"),
                           in.reader.number("pos")};
}

Any read_snapshot(const Input& in) {
    Snapshot snapshot;
    snapshot.id = in.reader.number("id");
    snapshot.epoch = in.reader.text("epoch");
    snapshot.pos = in.reader.number("pos");
    snapshot.streams = fields::get_streams(in.reader);
    snapshot.polls = fields::get_polls(in.reader, in.now);
    Records records = read_records(in.frames, in.now);
    snapshot.values = std::move(records.read);
    snapshot.unreadable = records.unreadable;
    return snapshot;
}

Any read_get_history(const Input& in) {
    return HistoryRequest{in.reader.number("id"), in.reader.text("epoch"),
                          in.reader.number("from")};
}

Any read_history(const Input& in) {
    History history;
    history.id = in.reader.number("id");
    history.epoch = in.reader.text("epoch");
    history.from = in.reader.number("from");
    history.to = in.reader.number("to");
    history.pos = in.reader.number("pos");
    for (const msgpack::object& item : in.reader.items("floors")) {
        const Tuple tuple(item, 3, in.reader, "floors");
        history.floors.push_back({tuple.text(0), tuple.text(1), tuple.number(2)});
    }
    Records records = read_records(in.frames, in.now);
    history.items = std::move(records.read);
    history.unreadable = records.unreadable;
    return history;
}

struct Type {
    std::string_view name;
    Any (*read)(const Input&);
    bool has_records;
};
constexpr std::array<Type, 13> kTypes{{{"hello", read_hello, false},
                                       {"welcome", read_welcome, true},
                                       {"conflict", read_conflict, false},
                                       {"sync", read_sync, false},
                                       {"durable", read_durable, false},
                                       {"unknown", read_unknown, false},
                                       {"ask", read_ask, false},
                                       {"range", read_range, true},
                                       {"get_snapshot", read_get_snapshot, false},
                                       {"snapshot", read_snapshot, true},
                                       {"refused", read_refused, false},
                                       {"get_history", read_get_history, false},
                                       {"history", read_history, true}}};

const Type& type_of(const Reader& reader) {
    const std::string name = reader.text("t");
    const auto type = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&](const Type& known) { return known.name == name; });
    if (type == kTypes.end()) {
        reader.fail("t", "is no message that this program knows");
    }
    return *type;
}

void check_frame_count(const Type& type, const Frames& frames) {
    const std::size_t records = frames.size() - 1;
    if (records > 2 * kRecordsMax) {
        throw Failure{{Errc::kTooLarge, std::string(type.name) + ": more than " +
                                            std::to_string(kRecordsMax) + " records"}};
    }
    if (records % 2 != 0 || (records != 0 && !type.has_records)) {
        throw Failure{{Errc::kInvalid, std::string(type.name) + ": " +
                                           std::to_string(frames.size()) +
                                           " frames are not what it has"}};
    }
}

}  // namespace

Frames encode(const Any& message, Mono now) {
    return std::visit([&](const auto& one) { return write(one, now); }, message);
}

Result<Any> decode(const Frames& frames, Now now) {
    if (frames.empty()) {
        return Error{Errc::kInvalid, "repair message: no frames"};
    }
    try {
        const fields::Unpacked map(frames[0], "repair message", {.array_max = kRecordsMax});
        const Reader reader(map.object(), "repair message");
        reader.check_version();
        const Type& type = type_of(reader);
        check_frame_count(type, frames);
        return type.read({reader, frames, now});
    } catch (const Failure& failure) {
        return failure.error;
    }
}

}  // namespace sigmacast::protocol
