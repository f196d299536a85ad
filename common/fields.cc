#include "common/fields.h"

#include <algorithm>

namespace sigmacast::fields {
namespace {

std::uint64_t wall_ms(Wall wall) {
    const auto ms = wall.time_since_epoch().count();
    return ms < 0 ? 0 : std::min(static_cast<std::uint64_t>(ms), kWallMaxMs);
}

std::string packed(std::uint64_t value) {
    std::string bytes;
    Sink sink{bytes};
    Packer(sink).pack_uint64(value);
    return bytes;
}

std::string_view view(const msgpack::object& object) {
    return {object.via.str.ptr, object.via.str.size};
}

bool is_text(const msgpack::object& object) {
    return object.type == msgpack::type::STR;
}
bool is_number(const msgpack::object& object) {
    return object.type == msgpack::type::POSITIVE_INTEGER;
}

/// Nothing is copied: the objects refer to the bytes.
bool by_reference(msgpack::type::object_type, std::size_t, void*) {
    return true;
}

constexpr std::size_t kMapMax = 1024;
constexpr std::size_t kTextMax = 4u << 20;
constexpr std::size_t kDepthMax = 16;

}  // namespace

void pack_text(Packer& packer, std::string_view text) {
    const auto size = static_cast<std::uint32_t>(text.size());
    packer.pack_str(size).pack_str_body(text.data(), size);
}

void Writer::member(std::string_view name, std::string_view value_bytes) {
    Sink sink{members_};
    Packer packer(sink);
    pack_text(packer, name);
    members_ += value_bytes;
    ++count_;
}

void Writer::text(std::string_view name, std::string_view value) {
    if (!value.empty()) {
        member(name, {});
        Sink sink{members_};
        Packer packer(sink);
        pack_text(packer, value);
    }
}

void Writer::number(std::string_view name, std::uint64_t value) {
    if (value != 0) {
        member(name, packed(value));
    }
}

void Writer::flag(std::string_view name, bool value) {
    if (value) {
        member(name, "\xC3");
    }
}

void Writer::duration(std::string_view name, Millis value) {
    number(name, value.count() < 0 ? 0 : static_cast<std::uint64_t>(value.count()));
}

void Writer::wall(std::string_view name, Wall value) {
    number(name, wall_ms(value));
}

void Writer::wall(std::string_view name, const std::optional<Wall>& value) {
    if (value) {
        member(name, packed(wall_ms(*value)));
    }
}

void Writer::as_of(const std::optional<AsOf>& value, Mono now) {
    if (!value) {
        return;
    }
    wall("as_of", std::optional<Wall>(value->wall));
    const auto age = std::chrono::ceil<Millis>(std::max(now - value->mono, Micros{0}));
    number("age", std::min(static_cast<std::uint64_t>(age.count()), kDurationMaxMs));
}

void Writer::age(const Age& value, Mono now) {
    number("q", static_cast<std::uint64_t>(value.quality));
    as_of(value.as_of, now);
    flag("unsure", value.uncertain);
    text("reason", value.reason);
    text("source", value.source);
    wall("retry", value.retry_at);
}

void Writer::texts(std::string_view name, const std::vector<std::string>& values) {
    member(name, {});
    Sink sink{members_};
    Packer packer(sink);
    packer.pack_array(static_cast<std::uint32_t>(values.size()));
    for (const std::string& value : values) {
        pack_text(packer, value);
    }
}

void Writer::map(std::string_view name, Writer value) {
    member(name, std::move(value).finish());
}

std::string Writer::finish() && {
    std::string head;
    Sink sink{head};
    Packer(sink).pack_map(count_);
    return std::move(members_.insert(0, head));
}

Unpacked::Unpacked(std::string_view bytes, std::string_view where, UnpackLimits limits) {
    const msgpack::unpack_limit bounds(limits.array_max, kMapMax, kTextMax, kTextMax, 0, kDepthMax);
    try {
        std::size_t end = 0;
        object_ =
            msgpack::unpack(zone_, bytes.data(), bytes.size(), end, by_reference, nullptr, bounds);
        if (end != bytes.size()) {
            throw Failure{{Errc::kInvalid, std::string(where) + ": bytes follow the msgpack map"}};
        }
    } catch (const msgpack::size_overflow& e) {
        throw Failure{{Errc::kTooLarge, std::string(where) + ": over a limit: " + e.what()}};
    } catch (const msgpack::unpack_error& e) {
        throw Failure{{Errc::kInvalid, std::string(where) + ": not msgpack: " + e.what()}};
    }
}

Reader::Reader(const msgpack::object& object, std::string where)
    : map_(&object.via.map), where_(std::move(where)) {
    if (object.type != msgpack::type::MAP) {
        throw Failure{{Errc::kInvalid, where_ + ": not a map"}};
    }
    for (const msgpack::object_kv& member : *map_) {
        if (!is_text(member.key)) {
            throw Failure{{Errc::kInvalid, where_ + ": a member's name is not a string"}};
        }
    }
}

void Reader::check_version() const {
    const std::uint64_t version = number("v");
    if (version == 0) {
        fail("v", "is missing");
    }
    if (version > kBusVersion) {
        throw Failure{{Errc::kUnsupported, where_ + ": bus version " + std::to_string(version) +
                                               ", but this program speaks " +
                                               std::to_string(kBusVersion) +
                                               "; upgrade this program first"}};
    }
}

const msgpack::object* Reader::find(std::string_view name) const {
    // Names begin differently, mostly: what does not is compared whole.
    for (const msgpack::object_kv& member : *map_) {
        const std::string_view other = view(member.key);
        if (other.size() == name.size() && other.front() == name.front() && other == name) {
            return &member.val;
        }
    }
    return nullptr;
}

std::string Reader::within(std::string_view name) const {
    return where_ + "." + std::string(name);
}

void Reader::fail(std::string_view name, std::string_view why) const {
    throw Failure{{Errc::kInvalid, within(name) + " " + std::string(why)}};
}

std::string Reader::text(std::string_view name) const {
    const msgpack::object* object = find(name);
    if (object == nullptr) {
        return {};
    }
    if (!is_text(*object)) {
        fail(name, "is not a string");
    }
    return std::string(view(*object));
}

std::string Reader::name(std::string_view name) const {
    std::string value = text(name);
    const std::string_view shown =
        std::string_view(value).substr(is_state_poll(value) ? kStatePollPrefix.size() : 0);
    if (const auto good = check_name(name, shown); !value.empty() && !good) {
        throw Failure{good.error().within(where_)};
    }
    return value;
}

std::uint64_t Reader::number(std::string_view name, std::uint64_t most) const {
    const msgpack::object* object = find(name);
    if (object == nullptr) {
        return 0;
    }
    if (!is_number(*object)) {
        fail(name, "is not a whole number from 0");
    }
    if (object->via.u64 > most) {
        fail(name, "is over " + std::to_string(most));
    }
    return object->via.u64;
}

bool Reader::flag(std::string_view name) const {
    const msgpack::object* object = find(name);
    if (object == nullptr) {
        return false;
    }
    if (object->type != msgpack::type::BOOLEAN) {
        fail(name, "is not a boolean");
    }
    return object->via.boolean;
}

Millis Reader::duration(std::string_view name) const {
    return Millis{static_cast<Millis::rep>(number(name, kDurationMaxMs))};
}

std::optional<Wall> Reader::wall(std::string_view name) const {
    if (find(name) == nullptr) {
        return std::nullopt;
    }
    return Wall{Millis{static_cast<Millis::rep>(number(name, kWallMaxMs))}};
}

std::optional<AsOf> Reader::as_of(Now now) const {
    const auto at = wall("as_of");
    const Millis age = duration("age");
    if (!at) {
        return std::nullopt;
    }
    return AsOf{*at, now.mono - age};
}

Age Reader::age(Now now) const {
    Age age;
    age.quality = static_cast<Quality>(number("q", static_cast<std::uint64_t>(Quality::kDown)));
    age.as_of = as_of(now);
    age.uncertain = flag("unsure");
    age.reason = text("reason");
    age.source = text("source");
    age.retry_at = wall("retry");
    return age;
}

Reader::Items Reader::items(std::string_view name) const {
    const msgpack::object* object = find(name);
    if (object == nullptr) {
        return {};
    }
    if (object->type != msgpack::type::ARRAY) {
        fail(name, "is not an array");
    }
    return {object->via.array.ptr, object->via.array.ptr + object->via.array.size};
}

std::optional<std::vector<std::string>> Reader::texts(std::string_view name) const {
    if (find(name) == nullptr) {
        return std::nullopt;
    }
    std::vector<std::string> values;
    for (const msgpack::object& item : items(name)) {
        if (!is_text(item)) {
            fail(name, "has an item that is not a string");
        }
        values.emplace_back(view(item));
    }
    return values;
}

std::optional<Reader> Reader::map(std::string_view name) const {
    const msgpack::object* object = find(name);
    if (object == nullptr) {
        return std::nullopt;
    }
    return Reader(*object, within(name));
}

Tuple::Tuple(const msgpack::object& object, std::size_t least, const Reader& reader,
             std::string_view name)
    : items_(&object.via.array), reader_(reader), name_(name) {
    if (object.type != msgpack::type::ARRAY || items_->size < least) {
        reader.fail(name, "has an item that is not an array of " + std::to_string(least));
    }
}

std::string Tuple::text(std::size_t index) const {
    if (!is_text(items_->ptr[index])) {
        reader_.fail(name_, "has an item with no string at " + std::to_string(index));
    }
    return std::string(view(items_->ptr[index]));
}

std::uint64_t Tuple::number(std::size_t index) const {
    if (!is_number(items_->ptr[index])) {
        reader_.fail(name_, "has an item with no whole number at " + std::to_string(index));
    }
    return items_->ptr[index].via.u64;
}

namespace {

void put_flow(Packer& packer, const Flow& flow) {
    if (flow.nth > 0) {
        packer.pack_uint64(flow.run);
        packer.pack_uint64(flow.nth);
    }
}

Flow get_flow(const Tuple& tuple, std::size_t at) {
    return tuple.size() > at + 1 ? Flow{tuple.number(at), tuple.number(at + 1)} : Flow{};
}

}  // namespace

void put_marks(Writer& writer, std::string_view name, const std::vector<Mark>& marks) {
    writer.array(name, marks, [](Packer& packer, const Mark& mark) {
        packer.pack_array(mark.flow.nth > 0 ? 4 : 2);
        pack_text(packer, mark.topic);
        packer.pack_uint64(mark.seq);
        put_flow(packer, mark.flow);
    });
}

std::vector<Mark> get_marks(const Reader& reader, std::string_view name) {
    std::vector<Mark> marks;
    for (const msgpack::object& item : reader.items(name)) {
        const Tuple tuple(item, 2, reader, name);
        marks.push_back({tuple.text(0), tuple.number(1), get_flow(tuple, 2)});
    }
    return marks;
}

void put_streams(Writer& writer, const std::vector<StreamHead>& streams) {
    writer.array("streams", streams, [](Packer& packer, const StreamHead& stream) {
        const bool flows = stream.flow.nth > 0;
        packer.pack_array(flows ? 6 : stream.events ? 4 : 3);
        pack_text(packer, stream.origin);
        pack_text(packer, stream.topic);
        packer.pack_uint64(stream.seq);
        if (stream.events || flows) {
            packer.pack_uint8(stream.events ? 1 : 0);
        }
        put_flow(packer, stream.flow);
    });
}

std::vector<StreamHead> get_streams(const Reader& reader) {
    std::vector<StreamHead> streams;
    for (const msgpack::object& item : reader.items("streams")) {
        const Tuple tuple(item, 3, reader, "streams");
        streams.push_back({tuple.text(0), tuple.text(1), tuple.number(2),
                           tuple.size() > 3 && tuple.number(3) != 0, get_flow(tuple, 4)});
    }
    return streams;
}

void put_report(Writer& writer, const Report& report, Mono now) {
    writer.text("poll", report.poll);
    writer.text("topic", report.topic);
    writer.flag("ok", report.ok);
    writer.as_of(report.as_of, now);
    writer.text("code", report.code);
    writer.text("source", report.source);
    writer.text("message", report.message);
    writer.number("failures", report.failures);
    writer.wall("retry", report.retry_at);
    writer.flag("unsupported", report.unsupported);
    if (report.keys) {
        writer.texts("keys", *report.keys);
    }
    writer.flag("partial", !report.complete);
    put_marks(writer, "after", report.after);
    writer.duration("interval", report.interval);
    writer.duration("deadline", report.deadline);
}

Report get_report(const Reader& reader, Now now) {
    Report report;
    report.poll = reader.name("poll");
    report.topic = reader.name("topic");
    report.ok = reader.flag("ok");
    report.as_of = reader.as_of(now);
    report.code = reader.text("code");
    report.source = reader.text("source");
    report.message = reader.text("message");
    report.failures = static_cast<std::uint32_t>(reader.number("failures", ~std::uint32_t{0}));
    report.retry_at = reader.wall("retry");
    report.unsupported = reader.flag("unsupported");
    report.keys = reader.texts("keys");
    report.complete = !reader.flag("partial");
    report.after = get_marks(reader, "after");
    report.interval = reader.duration("interval");
    report.deadline = reader.duration("deadline");
    return report;
}

void put_polls(Writer& writer, const std::vector<PollState>& polls, Mono now) {
    writer.maps("polls", polls, [&](Writer& map, const PollState& poll) {
        map.text("origin", poll.origin);
        map.number("seq", poll.report_seq);
        map.age(poll.age, now);
        Writer report;
        put_report(report, poll.report, now);
        map.map("report", std::move(report));
    });
}

std::vector<PollState> get_polls(const Reader& reader, Now now) {
    std::vector<PollState> polls;
    reader.maps("polls", [&](const Reader& map) {
        PollState poll;
        poll.origin = map.text("origin");
        poll.report_seq = map.number("seq");
        poll.age = map.age(now);
        if (const auto report = map.map("report")) {
            poll.report = get_report(*report, now);
        }
        polls.push_back(std::move(poll));
    });
    return polls;
}

}  // namespace sigmacast::fields
