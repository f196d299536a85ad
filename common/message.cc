#include "common/message.h"

#include <algorithm>

#include "common/codec.h"
#include "common/fields.h"

namespace sigmacast {
namespace {

using fields::Failure;
using fields::Reader;
using fields::Writer;

void put_head(Writer& writer, const Head& head, Mono now) {
    writer.number("pos", head.pos);
    fields::put_streams(writer, head.streams);
    fields::put_polls(writer, head.polls, now);
}

Head get_head(const Reader& reader, Now now) {
    Head head;
    head.pos = reader.number("pos");
    head.streams = fields::get_streams(reader);
    head.polls = fields::get_polls(reader, now);
    return head;
}

void put_gap(Writer& writer, const Gap& gap) {
    writer.number("to", gap.to);
    writer.text("why", gap.why);
}

void put_detail(Writer& writer, const Message& message, Mono now) {
    if (std::holds_alternative<std::monostate>(message.detail)) {
        return;
    }
    Writer detail;
    if (const auto* report = std::get_if<Report>(&message.detail)) {
        fields::put_report(detail, *report, now);
        writer.map("report", std::move(detail));
    } else if (const auto* head = std::get_if<Head>(&message.detail)) {
        put_head(detail, *head, now);
        writer.map("head", std::move(detail));
    } else if (const auto* gap = std::get_if<Gap>(&message.detail)) {
        put_gap(detail, *gap);
        writer.map("gap", std::move(detail));
    }
}

void put_message(Writer& writer, const Message& message, Mono now) {
    writer.text("key", message.key);
    writer.text("poll", message.poll);
    writer.text("epoch", message.epoch);
    writer.number("seq", message.seq);
    writer.number("pos", message.pos);
    writer.age(message.age, now);
    writer.flag("final", message.final);
    writer.flag("volatile", !message.durable);
    writer.number("after", message.after);
    writer.number("run", message.flow.run);
    writer.number("nth", message.flow.nth);
    writer.wall("at", message.at);
    if (!message.keys.empty()) {
        writer.texts("keys", message.keys);
    }
    put_detail(writer, message, now);
}

Writer start(Kind kind) {
    Writer writer;
    writer.number("v", kBusVersion);
    writer.number("k", static_cast<std::uint64_t>(kind));
    return writer;
}

Kind get_kind(const Reader& reader) {
    const std::uint64_t kind = reader.number("k", static_cast<std::uint64_t>(Kind::kGap));
    if (kind == 0) {
        reader.fail("k", "is missing");
    }
    return static_cast<Kind>(kind);
}

Reader need_map(const Reader& reader, std::string_view name) {
    auto map = reader.map(name);
    if (!map) {
        reader.fail(name, "is missing");
    }
    return std::move(*map);
}

void get_detail(const Reader& reader, Message& message, Now now) {
    switch (message.kind) {
        case Kind::kReport:
            message.detail = fields::get_report(need_map(reader, "report"), now);
            return;
        case Kind::kHead:
            message.detail = get_head(need_map(reader, "head"), now);
            return;
        case Kind::kGap: {
            const Reader gap = need_map(reader, "gap");
            message.detail = Gap{gap.number("to"), gap.text("why")};
            return;
        }
        case Kind::kValue:
        case Kind::kEvent:
        case Kind::kTransition:
            return;
    }
}

Message get_message(const Reader& reader, Now now) {
    Message message;
    message.kind = get_kind(reader);
    message.topic = reader.text("topic");
    message.origin = reader.text("origin");
    message.key = reader.text("key");
    message.poll = reader.name("poll");
    message.epoch = reader.text("epoch");
    message.seq = reader.number("seq");
    message.pos = reader.number("pos");
    message.age = reader.age(now);
    message.final = reader.flag("final");
    message.durable = !reader.flag("volatile");
    message.after = reader.number("after");
    message.flow = {reader.number("run"), reader.number("nth")};
    message.at = reader.wall("at").value_or(Wall{});
    message.sent = now.mono;
    message.keys = reader.texts("keys").value_or(std::vector<std::string>{});
    get_detail(reader, message, now);
    return message;
}

Result<Message> decode_header(std::string_view header, Now now) {
    try {
        const fields::Unpacked map(header, "header");
        const Reader reader(map.object(), "header");
        reader.check_version();
        return get_message(reader, now);
    } catch (const Failure& failure) {
        return failure.error;
    }
}

Result<> check_names(const Message& message) {
    if (const auto topic = check_name("topic", message.topic); !topic) {
        return topic.error();
    }
    return check_name("origin", message.origin);
}

}  // namespace

std::string_view to_string(Quality quality) {
    switch (quality) {
        case Quality::kInitial:
            return "initial";
        case Quality::kLive:
            return "live";
        case Quality::kStale:
            return "stale";
        case Quality::kDown:
            return "down";
    }
    return "unknown";
}

std::string report_topic(std::string_view poll) {
    return "poll." + std::string(poll);
}

Result<> check_name(std::string_view what, std::string_view name) {
    if (name.empty() || name.size() > kNameBytesMax) {
        return Error{Errc::kInvalid, std::string(what) + ": has " + std::to_string(name.size()) +
                                         " bytes; 1 to " + std::to_string(kNameBytesMax) +
                                         " are allowed"};
    }
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; })) {
        return Error{Errc::kInvalid,
                     std::string(what) + ": has a character that is not printable ASCII"};
    }
    return {};
}

Frames encode(const Message& message, Mono now) {
    Frames frames(3);
    frames[0].reserve(message.topic.size() + 1 + message.origin.size());
    frames[0].append(message.topic).append(1, '\0').append(message.origin);
    Writer writer = start(message.kind);
    put_message(writer, message, now);
    frames[1] = std::move(writer).finish();
    if (message.data) {
        frames[2] = *message.data;
    }
    return frames;
}

std::pair<std::string, Bytes> encode_record(const Message& message, Mono now) {
    Writer writer = start(message.kind);
    writer.text("topic", message.topic);
    writer.text("origin", message.origin);
    put_message(writer, message, now);
    return {std::move(writer).finish(), message.data};
}

Result<Message> decode(const Frames& frames, Now now) {
    if (frames.size() != 3) {
        return Error{Errc::kInvalid, "bus message: " + std::to_string(frames.size()) +
                                         " frames; topic, header and body were expected"};
    }
    const std::size_t separator = frames[0].find('\0');
    if (separator == std::string::npos) {
        return Error{Errc::kInvalid, "bus message: the topic frame names no origin"};
    }
    auto message = decode_header(frames[1], now);
    if (!message) {
        return message;
    }
    message->topic.assign(frames[0], 0, separator);
    message->origin.assign(frames[0], separator + 1, std::string::npos);
    if (const auto names = check_names(*message); !names) {
        return names.error();
    }
    if (!frames[2].empty()) {
        if (const auto body = check_map(frames[2]); !body) {
            return body.error().within("body");
        }
        message->data = std::make_shared<const std::string>(frames[2]);
    }
    return message;
}

Result<Message> decode_record(std::string_view header, Bytes body, Now now) {
    auto message = decode_header(header, now);
    if (!message) {
        return message;
    }
    if (const auto names = check_names(*message); !names) {
        return names.error();
    }
    if (body && !body->empty()) {
        if (const auto map = check_map(*body); !map) {
            return map.error().within("body");
        }
        message->data = std::move(body);
    }
    return message;
}

}  // namespace sigmacast
