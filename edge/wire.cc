#include "edge/wire.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/bind_handler.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>
#include <unordered_map>

#include "common/log.h"
#include "edge/outbox.h"
#include "edge/sse.h"
#include "edge/wire_impl.h"

namespace sigmacast::edge {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using tcp = asio::ip::tcp;
using error_code = boost::system::error_code;

constexpr std::string_view kSubprotocol = "sigmacast.v1.json";
constexpr Millis kSweep{500};
constexpr Millis kPongSlack{2'000};  // Nobody is given up before a ping had time to be answered.

/// Beast answers any code from 3000 on with the same; those that no RFC knows are 1002.
void mend_close(std::string& frame) {
    static constexpr std::uint16_t kCodeMax = 4999;  // RFC 6455 7.4.2.
    if (frame.size() >= 4 && static_cast<unsigned char>(frame[0]) == 0x88) {
        const auto high = static_cast<unsigned char>(frame[2]);
        const auto low = static_cast<unsigned char>(frame[3]);
        if ((high << 8 | low) > kCodeMax) {
            frame[2] = static_cast<char>(websocket::close_code::protocol_error >> 8);
            frame[3] = static_cast<char>(websocket::close_code::protocol_error & 0xff);
        }
    }
}

/// The layer below Beast's WebSocket: reads pass through, writes go to the outbox. A write
/// completes when its bytes have left, so that a peer that floods pings and does not read stops
/// being read from.
class OutboxStream {
 public:
    using executor_type = tcp::socket::executor_type;
    using next_layer_type = tcp::socket;

    OutboxStream(Transport transport, beast::flat_buffer buffered, WireCounters& counters)
        : transport_(std::move(transport)), buffered_(std::move(buffered)), counters_(counters) {}

    executor_type get_executor() noexcept { return transport_.get_executor(); }
    tcp::socket& next_layer() { return transport_.next_layer(); }
    const tcp::socket& next_layer() const { return transport_.next_layer(); }
    Transport& transport() { return transport_; }
    Outbox& outbox() { return outbox_; }

    std::weak_ptr<void> owner;        // Kept alive while the socket is waited for.
    std::function<void()> on_room;    // The outbox was full and has room again.
    std::function<void()> on_failed;  // Once, later: nobody may be reading, to notice.
    std::function<void(std::size_t)> on_fragments;  // So many frames that end no message have come.

    template <class Buffers, class Handler>
    auto async_read_some(const Buffers& buffers, Handler&& handler) {
        return asio::async_initiate<Handler, void(error_code, std::size_t)>(
            [this](auto token, const Buffers& into) {
                if (buffered_.size() == 0) {
                    transport_.async_read_some(into, [this, into, then = std::move(token)](
                                                         error_code ec, std::size_t n) mutable {
                        scan(into, n);
                        then(ec, n);
                    });
                    return;
                }
                const std::size_t n = asio::buffer_copy(into, buffered_.data());
                buffered_.consume(n);
                scan(into, n);
                asio::post(get_executor(), beast::bind_handler(std::move(token), error_code{}, n));
            },
            handler, buffers);
    }

    template <class Buffers, class Handler>
    auto async_write_some(const Buffers& buffers, Handler&& handler) {
        return asio::async_initiate<Handler, void(error_code, std::size_t)>(
            [this](auto token, const Buffers& from) { write(std::move(token), from); }, handler,
            buffers);
    }

    /// Sends as much as the socket takes; waits for room where it takes no more.
    void flush() {
        if (!failed_ && !waiting_) {
            if (const error_code ec = send_waiting(outbox_, transport_, counters_)) {
                ec == asio::error::would_block ? wait() : fail(ec);
            }
        }
        complete({});
    }

    void fail(error_code ec) {
        if (!failed_) {
            failed_ = true;
            error_code ignored;
            next_layer().shutdown(tcp::socket::shutdown_both, ignored);  // A pending read ends.
            complete(ec);
            if (auto keep = owner.lock()) {
                asio::post(get_executor(), [this, keep] { on_failed(); });
            }
        }
    }

 private:
    struct Pending {
        std::uint64_t until = 0;  // Done when the outbox has sent so many bytes.
        std::function<void(error_code)> done;
    };

    /// What has just been read into the first `size` bytes. What came with the request, too: this
    /// layer is there from the first frame on.
    template <class Buffers>
    void scan(const Buffers& into, std::size_t size) {
        std::size_t fragments = 0;
        for (auto part = asio::buffer_sequence_begin(into);
             size > 0 && part != asio::buffer_sequence_end(into); ++part) {
            const asio::mutable_buffer bytes = asio::buffer(asio::mutable_buffer(*part), size);
            fragments += scan_.feed(static_cast<const unsigned char*>(bytes.data()), bytes.size());
            size -= bytes.size();
        }
        if (fragments > 0) {
            on_fragments(fragments);
        }
    }

    template <class Token, class Buffers>
    void write(Token token, const Buffers& from) {
        auto bytes = std::make_shared<std::string>();
        bytes->resize(asio::buffer_size(from));
        asio::buffer_copy(asio::buffer(*bytes), from);
        mend_close(*bytes);
        const std::size_t n = bytes->size();
        auto handler = std::make_shared<Token>(std::move(token));
        const bool taken = !failed_ && outbox_.append(std::move(bytes));
        pending_.push_back(
            {outbox_.appended(), [handler, n, this](error_code ec) {
                 asio::post(get_executor(),
                            beast::bind_handler(std::move(*handler), ec, ec ? std::size_t{0} : n));
             }});
        if (!taken) {
            complete(asio::error::broken_pipe);
            return;
        }
        flush();
    }

    void complete(error_code ec) {
        while (!pending_.empty() && (ec || outbox_.sent() >= pending_.front().until)) {
            auto done = std::move(pending_.front().done);
            pending_.erase(pending_.begin());
            done(ec);
        }
    }

    void wait() {
        waiting_ = true;
        next_layer().async_wait(tcp::socket::wait_write,
                                [this, keep = owner.lock()](error_code ec) {
                                    waiting_ = false;
                                    if (ec) {
                                        fail(ec);
                                        return;
                                    }
                                    flush();
                                    if (on_room && outbox_.room() > 0) {
                                        on_room();
                                    }
                                });
    }

    Transport transport_;
    beast::flat_buffer buffered_;
    WireCounters& counters_;
    Outbox outbox_;
    std::vector<Pending> pending_;
    FragmentScan scan_;
    bool waiting_ = false;
    bool failed_ = false;
};

/// Found by Beast when a WebSocket ends: the close frame has left by then, since its write has
/// completed.
template <class Handler>
void async_teardown(beast::role_type role, OutboxStream& stream, Handler&& handler) {
    stream.transport().close_notify();
    websocket::async_teardown(role, stream.next_layer(), std::forward<Handler>(handler));
}

bool is_token(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 ||
               std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) !=
                   std::string_view::npos;
    });
}

std::string_view trimmed(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    return begin == std::string_view::npos
               ? std::string_view{}
               : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

/// A list may come on several lines (RFC 9110 5.3).
std::string list_of(const http::Request& request, std::string_view name) {
    std::string list;
    for (const auto& [each, value] : request.headers) {
        if (each == name) {
            list += (list.empty() ? "" : ",") + value;
        }
    }
    return list;
}

std::ptrdiff_t lines_of(const http::Request& request, std::string_view name) {
    return std::count_if(request.headers.begin(), request.headers.end(),
                         [&](const auto& header) { return header.first == name; });
}

bool has_token(std::string_view list, std::string_view token) {
    return beast::http::token_list(list).exists(token);
}

bool offers(std::string_view protocols, std::string_view wanted) {
    for (const auto& offered : beast::http::token_list(protocols)) {
        if (std::string_view(offered.data(), offered.size()) == wanted) {
            return true;
        }
    }
    return false;
}

/// RFC 6455 4.1: names, each of them once.
bool good_protocols(std::string_view list) {
    std::set<std::string_view> seen;
    while (!list.empty()) {
        const std::size_t comma = std::min(list.find(','), list.size());
        const std::string_view name = trimmed(list.substr(0, comma));
        list.remove_prefix(std::min(comma + 1, list.size()));
        if (!name.empty() && (!is_token(name) || !seen.insert(name).second)) {
            return false;
        }
    }
    return true;
}

/// Of a text whose characters are good: whether the last one is not whole.
bool ends_within_character(std::string_view text) {
    const auto last = std::find_if(text.rbegin(), text.rend(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0u) != 0x80;
    });
    if (last == text.rend()) {
        return false;
    }
    const auto lead = static_cast<unsigned char>(*last);
    const std::ptrdiff_t bytes = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return last - text.rbegin() + 1 < bytes;
}

/// 16 or (the desktop client's) 18 bytes in base64: 24 characters.
bool good_key(std::string_view key) {
    if (key.size() != 24) {
        return false;
    }
    const std::size_t padding = key.ends_with("==") ? 2 : key.ends_with("=") ? 1 : 0;
    return std::all_of(key.begin(), key.end() - static_cast<std::ptrdiff_t>(padding), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '+' || c == '/';
    });
}

/// `name` or `name=value`; a quoted value must be a token, too (RFC 6455 9.1).
bool good_parameter(std::string_view text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) {
        return is_token(text);
    }
    std::string_view value = trimmed(text.substr(equals + 1));
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
        value = value.substr(1, value.size() - 2);
    }
    return is_token(trimmed(text.substr(0, equals))) && is_token(value);
}

/// A list of extensions with their parameters (RFC 6455 9.1), of which none is used here. Beast
/// passes over what is malformed; the RFC has the handshake fail. Empty elements are allowed.
bool good_extensions(std::string_view list) {
    while (!list.empty()) {
        const std::size_t comma = std::min(list.find(','), list.size());
        std::string_view extension = trimmed(list.substr(0, comma));
        list.remove_prefix(std::min(comma + 1, list.size()));
        for (bool name = true; !extension.empty(); name = false) {
            const std::size_t semicolon = std::min(extension.find(';'), extension.size());
            const std::string_view part = trimmed(extension.substr(0, semicolon));
            if (name ? !is_token(part) : !good_parameter(part)) {
                return false;
            }
            if (semicolon + 1 == extension.size()) {
                return false;  // A semicolon that nothing follows.
            }
            extension.remove_prefix(std::min(semicolon + 1, extension.size()));
        }
    }
    return true;
}

bool same_text(std::string_view a, std::string_view b) {
    return a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(), [](unsigned char x, unsigned char y) {
               return std::tolower(x) == std::tolower(y);
           });
}

http::Response refusal(int status, std::string_view message) {
    http::Response response;
    response.status = status;
    response.body =
        "{\"code\":" + std::to_string(status) + ",\"error\":\"" + std::string(message) + "\"}";
    if (status == 426) {
        response.headers.emplace_back("Sec-WebSocket-Version", "13");
        response.headers.emplace_back("Upgrade", "websocket");
    }
    return response;
}

http::Response try_later(std::string_view message) {
    auto response = refusal(503, message);
    response.headers.emplace_back("Retry-After", "5");
    return response;
}

}  // namespace

bool origin_allowed(std::string_view origin, std::string_view host,
                    const std::vector<std::string>& listed, bool encrypted) {
    if (origin.empty()) {
        return true;
    }
    const std::size_t scheme = origin.find("://");
    if (scheme != std::string_view::npos && same_text(origin.substr(scheme + 3), host) &&
        (!encrypted || same_text(origin.substr(0, scheme), "https"))) {
        return true;
    }
    return std::any_of(listed.begin(), listed.end(), [&](const std::string& each) {
        return each == "*" || same_text(each, origin);
    });
}

std::optional<http::Response> refuse_upgrade(const http::Request& request,
                                             const WireOptions& options, std::size_t clients) {
    if (request.method != "GET") {
        auto response = refusal(405, "Method Not Allowed");
        response.headers.emplace_back("Allow", "GET");
        return response;
    }
    const std::string_view key = request.header("sec-websocket-key");
    if (!has_token(list_of(request, "upgrade"), "websocket") ||
        !has_token(list_of(request, "connection"), "upgrade") || key.empty() ||
        request.header("sec-websocket-version") != "13") {
        return refusal(426, "Upgrade Required");
    }
    for (const char* name : {"host", "sec-websocket-key", "sec-websocket-version"}) {
        if (lines_of(request, name) != 1) {  // RFC 9112 3.2, RFC 6455 11.3.
            return refusal(400, std::string(name) + " must come once");
        }
    }
    if (!good_key(key)) {
        return refusal(400, "Sec-WebSocket-Key is not base64 of 16 bytes");
    }
    if (!good_extensions(list_of(request, "sec-websocket-extensions"))) {
        return refusal(400, "Sec-WebSocket-Extensions is malformed");
    }
    if (!good_protocols(list_of(request, "sec-websocket-protocol"))) {
        return refusal(400, "Sec-WebSocket-Protocol is not a list of different names");
    }
    if (!origin_allowed(request.header("origin"), request.header("host"), options.cors_origins,
                        request.encrypted)) {
        return refusal(403, "Origin is not among edge.cors_origins");
    }
    if (clients >= options.clients_max) {
        return try_later("edge.clients_max connections are open");
    }
    return std::nullopt;
}

/// Of a request for an event stream.
std::optional<http::Response> refuse_events(const http::Request& request) {
    const auto asked = read_events_request(request);
    return asked ? std::nullopt : std::optional(refusal(400, asked.error().message));
}

/// Where all that it asks for is denied there is nothing to send; some of it, and the stream tells.
std::optional<http::Response> denied_events(const http::Request& request, const Grant& grant) {
    const auto asked = read_events_request(request);
    const bool any = std::any_of(asked->types.begin(), asked->types.end(), [&](const auto& type) {
        // What has an underscore may be another name's way of writing: the Hub knows.
        return type == "*" || type.find('_') != std::string::npos || grant.allows(type);
    });
    return any ? std::nullopt
               : std::optional(refusal(403, "your token allows none of these types"));
}

http::Response unauthorized(std::string_view problem) {
    auto response = refusal(401, problem.empty() ? "a token is needed" : problem);
    response.headers.emplace_back("WWW-Authenticate",
                                  problem.empty() ? "Bearer" : "Bearer error=\"invalid_token\"");
    return response;
}

void add_answer_headers(http::Response& response, const http::Request& request,
                        const std::vector<std::string>& listed) {
    response.headers.emplace_back("X-Content-Type-Options", "nosniff");
    response.headers.emplace_back("Vary", "Origin");
    const std::string_view origin = request.header("origin");
    if (!origin.empty() &&
        origin_allowed(origin, request.header("host"), listed, request.encrypted)) {
        response.headers.emplace_back("Access-Control-Allow-Origin", std::string(origin));
    }
}

error_code send_waiting(Outbox& outbox, Transport& transport, WireCounters& counters) {
    while (!outbox.empty()) {
        iovec parts[Outbox::kPartsMax];
        msghdr message{};
        message.msg_iov = parts;
        message.msg_iovlen = outbox.gather(parts);
        const ssize_t n = transport.send(message);
        if (n >= 0) {
            ++counters.flushes;
            counters.bytes += static_cast<std::uint64_t>(n);
            outbox.consume(static_cast<std::size_t>(n));
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return asio::error::would_block;
        } else if (errno != EINTR) {
            return {errno, boost::system::system_category()};
        }
    }
    return {};
}

Wire::Impl::Impl(Loop& on, Hub& to, WireOptions with, Random from)
    : loop(on), hub(to), options(std::move(with)), random(std::move(from)), sweep(on, [this] {
          sweep_all();
      }) {
    sweep.set(system_now().mono + kSweep);
}

void Wire::Impl::add(std::shared_ptr<Client> client) {
    clients.emplace(client.get(), client);
    client->start();
}

void Wire::Impl::remove(const Client* client, Session* session) {
    if (session) {
        by_session.erase(session);
        hub.close(*session);
    }
    clients.erase(client);
}

void Wire::Impl::flush_touched() {
    for (Session* session : hub.take_touched()) {
        const auto client = by_session.find(session);
        if (client != by_session.end()) {
            client->second->pump();
        }
    }
}

void Wire::Impl::flush_later() {
    if (!flush_posted) {
        flush_posted = true;
        loop.post([this] {
            flush_posted = false;
            flush_touched();
        });
    }
}

namespace {

class Connection final : public Client, public std::enable_shared_from_this<Connection> {
 public:
    Connection(Wire::Impl& wire, http::Upgrade& upgrade, std::optional<Grant> grant)
        : wire_(wire),
          grant_(std::move(grant)),
          address_(wire.addresses.take(http::address_key(upgrade.request.peer))),
          user_(grant_ ? wire.hub.seat_for(*grant_) : Tally::Seat{}),
          ws_(std::move(upgrade.transport), std::move(upgrade.buffered), wire.counters),
          request_(std::move(upgrade.message)),
          v1_(offers(list_of(upgrade.request, "sec-websocket-protocol"), kSubprotocol)) {
        // Beast looks at the first line of each, and both have been checked.
        request_.set(beast::http::field::upgrade, "websocket");
        request_.set(beast::http::field::connection, "Upgrade");
    }

    void start() override {
        opening_ = !grant_;
        wire_.opening += opening_ ? 1u : 0u;
        layer().owner = weak_from_this();
        layer().on_room = [this] { pump(); };
        layer().on_failed = [this] { finish(); };
        layer().on_fragments = [this](std::size_t fragments) {
            if (session_) {
                count_frames(fragments);
            }
        };
        error_code ignored;
        layer().next_layer().set_option(tcp::no_delay(true), ignored);
        ws_.set_option(
            websocket::stream_base::timeout{Seconds(10), websocket::stream_base::none(), false});
        ws_.read_message_max(wire_.options.message_bytes_max);
        ws_.auto_fragment(false);
        ws_.set_option(
            websocket::stream_base::decorator([v1 = v1_](websocket::response_type& response) {
                response.set(beast::http::field::server, kServerName);
                response.set(beast::http::field::vary, "Origin");
                if (v1) {
                    response.set(beast::http::field::sec_websocket_protocol, kSubprotocol);
                }
            }));
        ws_.control_callback([this](websocket::frame_type kind, beast::string_view) {
            heard_ = system_now().mono;
            if (kind == websocket::frame_type::pong) {
                ever_ponged_ = true;
            }
            if (session_ && kind != websocket::frame_type::close) {
                count_frames(1);
            }
        });
        ws_.async_accept(request_,
                         [self = shared_from_this()](error_code ec) { self->on_accepted(ec); });
    }

    /// Moves what waits in the session to the outbox, as much as has room, and sends it in one
    /// call.
    void pump() override {
        if (!session_ || done_) {
            return;
        }
        const auto keep = shared_from_this();
        const Now now = system_now();
        bool more = true;
        while (more && !layer().outbox().closed()) {
            more = false;
            const Outbox& outbox = layer().outbox();
            const auto frames = outbox.room() > 0
                                    ? session_->take(outbox.room(), now, outbox.bytes_room())
                                    : std::vector<Bytes>{};
            for (const Bytes& frame : frames) {
                layer().outbox().append(frame);
            }
            layer().flush();
            more = !frames.empty() && !session_->idle();
        }
        if (session_->closing()) {
            close_when_sent(now);
        } else {
            read_if_wanted();
        }
    }

    void sweep(Now now) override {
        if (close_by_ && *close_by_ <= now.mono) {
            abort();
            return;
        }
        if (!session_ || session_->closing()) {
            return;
        }
        const Millis patience =
            std::max(wire_.options.pong_timeout, wire_.options.ping_interval + kPongSlack);
        if (ever_ponged_ && elapsed(heard_, now.mono) > patience) {
            ++wire_.counters.no_pong;
            session_->close({kCloseNoPong, "no_pong"});
            close_when_sent(now);
            return;
        }
        if (uptake_.stalled(layer().outbox(), now.mono) > wire_.options.write_timeout) {
            wire_.hub.drop_slow(*session_, now);
            close_when_sent(now);
            return;
        }
        if (next_ping_ <= now.mono && !pinging_) {
            pinging_ = true;
            schedule_ping(now);
            ws_.async_ping({}, [self = shared_from_this()](error_code) { self->pinging_ = false; });
        }
    }

    void abort() override { layer().fail(asio::error::connection_aborted); }

 private:
    OutboxStream& layer() { return ws_.next_layer(); }

    void schedule_ping(Now now) {
        const Millis interval = wire_.options.ping_interval;
        next_ping_ = now.mono + interval - interval / 10 + wire_.random.upto(interval / 10);
    }

    void on_accepted(error_code ec) {
        request_ = {};  // A token may be in it.
        opened();
        if (ec || done_) {
            finish();
            return;
        }
        ++wire_.counters.accepted;
        const Now now = system_now();
        if (wire_.options.before_input) {
            wire_.options.before_input(now);
        }
        heard_ = now.mono;
        uptake_.start(now.mono);
        schedule_ping(now);
        session_ = &wire_.hub.open(v1_ ? Dialect::kV1 : Dialect::kLegacy, now, std::move(grant_));
        wire_.by_session.emplace(session_, this);
        pump();
    }

    void opened() {
        wire_.opening -= opening_ ? 1u : 0u;
        opening_ = false;
    }

    void read() {
        reading_ = true;
        ws_.async_read(buffer_, [self = shared_from_this()](error_code ec, std::size_t) {
            self->on_read(ec);
        });
    }

    void read_if_wanted() {
        if (reading_) {
            return;
        }
        const bool wanted = session_->wants_reading();
        wire_.counters.not_read_from += paused_ || wanted ? 0u : 1u;
        paused_ = !wanted;
        if (wanted) {
            read();
        }
    }

    void count_frames(std::size_t frames) {
        wire_.hub.count_frames(*session_, frames, system_now());
        if (session_->closing()) {
            flush_later();
        }
    }

    void count_failure(error_code ec) {
        if (ec == websocket::error::message_too_big) {
            ++wire_.counters.too_large;
        } else if (ec == websocket::condition::protocol_violation) {
            ++wire_.counters.protocol_errors;
        }
    }

    void on_read(error_code ec) {
        const Now now = system_now();
        if (!ec && wire_.options.before_input) {
            wire_.options.before_input(now);  // Before another read may begin.
        }
        reading_ = false;
        if (ec) {
            count_failure(ec);
            finish();
            return;
        }
        heard_ = now.mono;
        if (session_ && !session_->closing()) {
            const auto data = buffer_.data();
            const std::string_view text(static_cast<const char*>(data.data()), data.size());
            if (ws_.got_text() && ends_within_character(text)) {
                // Beast misses it where the last frame is an empty one.
                ++wire_.counters.protocol_errors;
                session_->close({websocket::close_code::bad_payload, ""});
                close_when_sent(now);
            } else {
                wire_.hub.receive(*session_, text, now);
            }
        }
        buffer_.consume(buffer_.size());
        if (session_ && session_->closing() && !reading_) {
            read();  // For the peer's close frame.
        }
        flush_later();
    }

    void flush_later() {
        wire_.flush_later();
        if (session_) {
            read_if_wanted();
        }
    }

    void close_when_sent(Now now) {
        if (!close_by_) {
            close_by_ = now.mono + wire_.options.close_timeout;
        }
        if (closing_ || !session_->idle()) {
            return;
        }
        closing_ = true;
        const Session::Close& why = *session_->closing();
        ws_.async_close({static_cast<websocket::close_code>(why.code), why.reason},
                        [self = shared_from_this()](error_code) { self->finish(); });
        if (!reading_) {
            read();
        }
    }

    void finish() {
        if (done_) {
            return;
        }
        done_ = true;
        opened();
        error_code ignored;
        layer().fail(asio::error::operation_aborted);
        layer().next_layer().close(ignored);
        wire_.remove(this, std::exchange(session_, nullptr));
    }

    Wire::Impl& wire_;
    std::optional<Grant> grant_;  // Until it is the session's.
    Tally::Seat address_;
    Tally::Seat user_;  // Where the request has brought the token.
    websocket::stream<OutboxStream, false> ws_;
    beast::http::request<beast::http::string_body> request_;
    beast::flat_buffer buffer_;
    Session* session_ = nullptr;
    bool v1_ = false;
    bool opening_ = false;
    bool reading_ = false;
    bool paused_ = false;
    bool pinging_ = false;
    bool ever_ponged_ = false;
    bool closing_ = false;
    bool done_ = false;
    Mono heard_{};
    Uptake uptake_;
    Mono next_ping_{};
    std::optional<Mono> close_by_;
};

}  // namespace

void Wire::Impl::sweep_all() {
    const Now now = system_now();
    std::vector<std::shared_ptr<Client>> all;
    all.reserve(clients.size());
    for (const auto& [key, client] : clients) {
        all.push_back(client);
    }
    for (const auto& client : all) {
        client->sweep(now);
    }
    sweep.set(now.mono + kSweep);
}

Wire::Wire(Loop& loop, Hub& hub, WireOptions options, Random random)
    : impl_(std::make_unique<Impl>(loop, hub, std::move(options), std::move(random))) {}

Wire::~Wire() = default;

bool Wire::accept(http::Upgrade& upgrade) {
    const std::string& path = upgrade.request.path;
    const bool events = is_events_path(path);
    if (!events && path != "/ws" && path != "/ws/") {
        return false;
    }
    std::optional<Grant> grant;
    if (refuse(upgrade.request, grant, impl_->counters)) {
        ++impl_->counters.refused;
        return false;
    }
    if (events) {
        impl_->add(make_event_stream(*impl_, upgrade, std::move(*grant),
                                     *read_events_request(upgrade.request)));
    } else {
        impl_->add(std::make_shared<Connection>(*impl_, upgrade, std::move(grant)));
    }
    return true;
}

std::optional<http::Response> Wire::refusal(const http::Request& request) const {
    std::optional<Grant> ignored;
    WireCounters counted;  // By accept().
    return refuse(request, ignored, counted);
}

std::optional<http::Response> Wire::refuse(const http::Request& request,
                                           std::optional<Grant>& grant,
                                           WireCounters& counters) const {
    const bool events = is_events_path(request.path);
    const auto busy = [&](std::string_view message) {
        return events ? stream_of_goodbye({kCloseOverCapacity, "over_capacity"}, kFullRetryMin,
                                          kFullRetryMax, impl_->random)
                      : try_later(message);
    };
    if (auto refused =
            events ? refuse_events(request) : refuse_upgrade(request, impl_->options, clients())) {
        counters.clients_full += refused->status == 503 ? 1u : 0u;
        return refused;
    }
    if (clients() >= impl_->options.clients_max) {
        ++counters.clients_full;
        return busy("edge.clients_max connections are open");
    }
    if (impl_->hub.closed(system_now().mono)) {
        return events ? stream_of_goodbye({kCloseDraining, "draining"}, kStreamRetryMin,
                                          kStreamRetryMax, impl_->random)
                      : try_later("this edge ends; another one serves the same");
    }
    if (impl_->addresses.full(http::address_key(request.peer),
                              impl_->options.clients_per_address_max)) {
        ++counters.address_full;
        return busy("edge.clients_per_address_max connections of your address are open");
    }
    if (!impl_->options.access) {
        grant = Grant{};
        return std::nullopt;
    }
    auto admitted = impl_->options.access->admit(request, system_now().wall);
    if (!admitted) {
        return unauthorized(admitted.error().message);
    }
    grant = std::move(*admitted);
    if (grant && !impl_->hub.has_room_for(*grant)) {
        ++counters.user_full;
        return busy("edge.clients_per_user_max connections of your user are open");
    }
    if (events) {
        return grant ? denied_events(request, *grant) : unauthorized("");
    }
    if (!grant && impl_->opening + impl_->hub.waiting() >= impl_->options.waiting_max) {
        ++counters.waiting_full;
        return try_later("too many connections have not sent their token yet");
    }
    return std::nullopt;
}

void Wire::flush() {
    impl_->flush_touched();
}

void Wire::abort_all() {
    const auto all = impl_->clients;
    for (const auto& [key, client] : all) {
        client->abort();
    }
}

std::size_t Wire::clients() const {
    return impl_->clients.size();
}
std::size_t Wire::event_streams() const {
    return impl_->streams;
}
const WireCounters& Wire::counters() const {
    return impl_->counters;
}
const WireOptions& Wire::options() const {
    return impl_->options;
}

}  // namespace sigmacast::edge
