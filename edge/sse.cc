#include "edge/sse.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <charconv>
#include <optional>
#include <utility>

#include "common/codec.h"
#include "edge/event_id.h"
#include "edge/wire_impl.h"

namespace sigmacast::edge {
namespace {

namespace asio = boost::asio;
using error_code = boost::system::error_code;

constexpr std::size_t kIgnoredBytesMax = 64u << 10;
constexpr std::size_t kCopiedBytesMax = 2u << 10;  // Longer messages are shared by their clients.
constexpr Millis kDeadPeerSlack{5'000};

/// Where a goodbye asks its client to stay away for a while: EventSource knows it as `retry`.
std::optional<std::uint64_t> reconnect_hint(std::string_view goodbye) {
    static constexpr std::string_view kName = "\"reconnect_in_ms\":";
    const std::size_t at = goodbye.find(kName);
    std::uint64_t ms = 0;
    if (at == std::string_view::npos) {
        return std::nullopt;
    }
    const std::string_view rest = goodbye.substr(at + kName.size());
    return std::from_chars(rest.data(), rest.data() + rest.size(), ms).ec == std::errc()
               ? std::optional(ms)
               : std::nullopt;
}

/// Whether a `subscribed` says that the log has not come as far as the client's id.
bool is_from_future(std::string_view subscribed) {
    return subscribed.find("\"cause\":\"future\"") != std::string_view::npos;
}

http::Headers stream_headers() {
    return {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}};
}

class EventStream final : public Client {
 public:
    EventStream(Wire::Impl& wire, http::Upgrade& upgrade, Grant grant, EventsRequest asked)
        : Client(wire, upgrade, &grant),
          grant_(std::move(grant)),
          asked_(std::move(asked)),
          id_(EventId::parse(asked_.last_event_id).value_or(EventId())),
          head_only_(upgrade.request.method == "HEAD"),
          ignored_(upgrade.early.size()) {
        http::Response head{.body = {}, .content_type = "text/event-stream"};
        head.headers = stream_headers();
        add_answer_headers(head, upgrade.request, wire.options.cors_origins);
        head_ = http::stream_head(head, kServerName);
    }

    void start() override {
        const Now now = system_now();
        give_up_on_dead_peers();
        uptake_.start(now.mono);
        ++wire_.streams;
        ++wire_.counters.streams_accepted;
        if (head_only_) {
            outbox_.append(std::make_shared<std::string>(std::move(head_)));
            flush();
            close_when_sent(now);
            return read();
        }
        const auto retry = kStreamRetryMin + wire_.random.upto(kStreamRetryMax - kStreamRetryMin);
        outbox_.append(std::make_shared<std::string>(
            std::move(head_) + "retry: " + std::to_string(retry.count()) + "\n\n"));
        session_ = &wire_.hub.open(Dialect::kV1, now, std::move(grant_));
        session_->client = this;
        wire_.hub.receive(*session_, asked_.subscribe(), now);
        asked_ = {};
        read();
        wire_.flush_later();
    }

    /// Everything that waits and has room, then one system call for it.
    void pump() override {
        if (!session_ || done_) {
            return;
        }
        if (session_->idle() && !session_->closing() && outbox_.empty()) {
            return;  // All of it has left.
        }
        const auto keep = shared_from_this();
        const Now now = system_now();
        bool more = true;
        while (more) {
            more = fill(now);
            flush();
            more = more && outbox_.empty() && !done_;
        }
        if (session_->closing()) {
            close_when_sent(now);
        }
    }

 private:
    static constexpr std::size_t kPartsOfEvent = 3;

    /// Nobody answers pings here, and a peer that is cut off takes no heartbeat either: the kernel
    /// tells, well after the write timeout.
    void give_up_on_dead_peers() {
        const auto limit =
            std::max(wire_.options.write_timeout, wire_.options.pong_timeout) + kDeadPeerSlack;
        const auto ms = static_cast<unsigned>(limit.count());
        ::setsockopt(transport_.next_layer().native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &ms,
                     sizeof ms);
    }

    bool fill(Now now) override {
        bool more = false;
        while (const std::size_t most = outbox_.room() / kPartsOfEvent) {
            auto frames = session_->take(most, now, outbox_.bytes_room());
            if (frames.empty()) {
                break;
            }
            append(std::move(frames));
            more = !session_->idle();
        }
        return more;
    }

    /// Frames that the session has just given, as events. What is short is put together; what is
    /// long stays in the frame that all clients share.
    void append(std::vector<FramePtr> frames) {
        std::string text;
        for (std::size_t i = 0; i < frames.size(); ++i) {
            const std::string_view payload = payload_of(*frames[i]);
            append_fields(text, payload, i + 1 == frames.size() && session_->idle());
            text += "data: ";
            if (payload.size() <= kCopiedBytesMax) {
                text += payload;
            } else {
                outbox_.append(std::make_shared<std::string>(std::exchange(text, {})));
                const std::size_t head = frames[i]->size() - payload.size();
                outbox_.append(Encoder::text_of(std::move(frames[i])), head);
            }
            text += "\n\n";
        }
        outbox_.append(std::make_shared<std::string>(std::move(text)));
    }

    /// `last`: nothing waits behind it.
    void append_fields(std::string& text, std::string_view payload, bool last) {
        const Place place = place_of(payload);
        bool new_id = id_.pass(place);
        if (place.type == "subscribed" && is_from_future(payload)) {
            id_.forget();
        } else if (place.type == "goodbye") {
            if (const auto hint = reconnect_hint(payload)) {
                text += "retry: " + std::to_string(*hint) + '\n';
            }
        }
        if (const auto pos = last ? wire_.hub.told_pos(*session_) : std::nullopt) {
            id_.reach(wire_.hub.cache().epoch(), *pos);
            new_id = true;
        }
        if (std::string token = new_id ? id_.token() : std::string();
            !token.empty() && token != sent_id_) {
            text += "id: " + token + '\n';
            sent_id_ = std::move(token);
        }
    }

    void on_room() override {
        if (session_ && outbox_.room() >= kPartsOfEvent) {
            pump();
        } else if (head_only_) {
            close_when_sent(system_now());
        }
    }

    void on_finish() override { --wire_.streams; }

    /// What comes after the request is thrown away; the end of it is the end of the client.
    void read() {
        transport_.async_read_some(asio::buffer(scrap_), [this, keep = shared_from_this()](
                                                             error_code error, std::size_t size) {
            ignored_ += size;
            if (error || done_ || ignored_ > kIgnoredBytesMax) {
                return finish();
            }
            read();
        });
    }

    void close_when_sent(Now now) override {
        limit_closing(now);
        if (!shut_ && outbox_.empty() && (!session_ || session_->idle())) {
            shut_ = true;  // The client's end follows, or the time limit.
            transport_.shutdown_send();
        }
    }

    Grant grant_;          // Until it is the session's;
    EventsRequest asked_;  // and so is this.
    EventId id_;
    std::string sent_id_;
    std::string head_;
    bool head_only_ = false;
    std::size_t ignored_ = 0;
    std::array<char, 256> scrap_;
};

}  // namespace

bool is_events_path(std::string_view path) {
    return path.starts_with(kEventsPath) &&
           (path.size() == kEventsPath.size() || path.substr(kEventsPath.size()) == "/");
}

http::Response stream_of_goodbye(const Session::Close& why, Millis retry_min, Millis retry_max,
                                 Random& random) {
    const Millis retry = retry_min + random.upto(retry_max - retry_min);
    http::Response response{
        .body = "retry: " + std::to_string(retry.count()) +
                "\n\ndata: " + render_goodbye(why.code, why.reason, retry, system_now()) + "\n\n",
        .content_type = "text/event-stream"};
    response.headers = stream_headers();
    return response;
}

std::string EventsRequest::subscribe() const {
    std::string out = R"({"type":"subscribe","data":{"types":[)";
    for (const std::string& type : types) {
        out += out.back() == '[' ? "" : ",";
        append_json_string(out, type);
    }
    out += ']';
    if (!last_event_id.empty()) {
        const auto id = EventId::parse(last_event_id);
        out += ",\"resume\":" + (id ? id->resume() : std::string("{}"));
    }
    return out + "}}";
}

Result<EventsRequest> read_events_request(const http::Request& request) {
    EventsRequest asked;
    for (const std::string& list : request.parameters("types")) {
        for (std::string_view rest = list; !rest.empty();) {
            const std::size_t comma = std::min(rest.find(','), rest.size());
            const std::string_view name = rest.substr(0, comma);
            rest.remove_prefix(std::min(comma + 1, rest.size()));
            if (name.size() > kTopicNameMax) {
                return Error{Errc::kInvalid, "each type must be a name of 1 to " +
                                                 std::to_string(kTopicNameMax) + " bytes"};
            }
            if (!name.empty()) {
                asked.types.emplace_back(name);
            }
        }
    }
    if (asked.types.size() > kNamesMax) {
        return Error{Errc::kInvalid, "more than " + std::to_string(kNamesMax) + " types"};
    }
    if (asked.types.empty()) {
        asked.types.emplace_back("*");
    }
    asked.last_event_id = request.header("last-event-id");
    const auto given = request.parameters("last_event_id");
    if (asked.last_event_id.empty() && !given.empty()) {
        asked.last_event_id = given.front();
    }
    return asked;
}

std::shared_ptr<Client> make_event_stream(Wire::Impl& wire, http::Upgrade& upgrade, Grant grant,
                                          EventsRequest asked) {
    return std::make_shared<EventStream>(wire, upgrade, std::move(grant), std::move(asked));
}

}  // namespace sigmacast::edge
