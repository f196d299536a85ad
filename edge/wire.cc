#include "edge/wire.h"

#include <malloc.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <cctype>
#include <cerrno>
#include <set>
#include <span>
#include <stdexcept>

#include "common/codec.h"
#include "common/log.h"
#include "edge/ahead.h"
#include "edge/sse.h"
#include "edge/websocket.h"
#include "edge/wire_impl.h"

namespace sigmacast::edge {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using error_code = boost::system::error_code;

constexpr std::string_view kJsonProtocol = "sigmacast.v1.json";
constexpr std::string_view kMsgpackProtocol = "sigmacast.v1.msgpack";
// RFC 6455 7.4.1.
constexpr std::uint16_t kCloseBadPayload = 1007;
constexpr std::uint16_t kCloseTooBig = 1009;
constexpr Millis kSweep{500};
constexpr std::size_t kGiveBackMin = 500;  // Clients that must have left for it to be worth it.
constexpr Millis kPongSlack{2'000};  // Nobody is given up before a ping had time to be answered.

/// RFC 6455 4.2.2: what says that the key was read.
std::string accept_key(std::string_view key) {
    static const EVP_MD* const kSha1 = EVP_MD_fetch(nullptr, "SHA1", nullptr);
    const std::string text = std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    std::array<unsigned char, 20> hash{};
    unsigned size = 0;
    if (EVP_Digest(text.data(), text.size(), hash.data(), &size, kSha1, nullptr) != 1) {
        throw std::runtime_error("SHA-1 failed: this OpenSSL is configured without it");
    }
    std::array<unsigned char, 29> base64{};
    const int length = EVP_EncodeBlock(base64.data(), hash.data(), static_cast<int>(size));
    return {reinterpret_cast<const char*>(base64.data()), static_cast<std::size_t>(length)};
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

/// The first of ours that the client offers; empty where it offers none.
std::string_view subprotocol_of(std::string_view offered) {
    for (const auto& each : beast::http::token_list(offered)) {
        for (const std::string_view ours : {kJsonProtocol, kMsgpackProtocol}) {
            if (std::string_view(each.data(), each.size()) == ours) {
                return ours;
            }
        }
    }
    return {};
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

/// A list of extensions with their parameters (RFC 6455 9.1). What is malformed has the handshake
/// fail. Empty elements are allowed.
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
    if (request.version < 11) {
        return refusal(400, "a WebSocket needs HTTP/1.1");
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
std::optional<http::Response> denied_events(const http::Request& request, const Grant& grant,
                                            const Hub& hub) {
    const auto asked = read_events_request(request);
    const bool any = std::any_of(asked->types.begin(), asked->types.end(), [&](const auto& type) {
        return type == "*" || grant.allows(hub.topic_name(type));
    });
    return any ? std::nullopt
               : std::optional(refusal(403, "your token allows none of these types"));
}

http::Response try_later(std::string_view message) {
    auto response = refusal(503, message);
    response.headers.emplace_back("Retry-After", "5");
    return response;
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

namespace {

/// Of those sessions that have one.
template <class Visit>
void each_client(const std::vector<Session*>& sessions, Visit visit) {
    constexpr std::size_t kClientAhead = kAhead / 2;  // Once its session is there.
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        fetch_ahead(sessions, i);
        if (i + kClientAhead < sessions.size()) {
            fetch(sessions[i + kClientAhead]->client);
        }
        if (Client* const client = sessions[i]->client) {
            visit(*client);
        }
    }
}

}  // namespace

Wire::Impl::Impl(Loop& on, Hub& to, WireOptions with, Random from)
    : loop(on),
      hub(to),
      options(std::move(with)),
      random(std::move(from)),
      sweep(on, [this] { sweep_all(); }),
      pace(on, [this] { flush(); }) {
    sweep.set(system_now().mono + kSweep);
}

void Wire::Impl::add(std::shared_ptr<Client> client) {
    client->index = clients.size();
    clients.push_back(client);
    ++hub.occupancy().clients;
    most_clients = std::max(most_clients, clients.size());
    client->start();
}

void Wire::Impl::remove(const Client& client, Session* session) {
    if (session) {
        hub.close(*session);
    }
    const std::size_t index = client.index;
    std::swap(clients[index], clients.back());
    clients[index]->index = index;
    --hub.occupancy().clients;
    clients.pop_back();  // Whoever calls keeps it until it returns.
}

void Wire::Impl::flush() {
    if (options.flush_interval > Millis{0} && hub.has_touched()) {
        const Mono now = system_now().mono;
        if (now < next_flush) {
            pace.set(next_flush);
            return;
        }
        next_flush = now + options.flush_interval;
    }
    flush_touched();
}

void Wire::Impl::flush_touched() {
    // None of them leaves meanwhile: a client ends in a task of its own, never within pump().
    const auto touched = hub.take_touched();
    if (options.batch && touched.size() >= options.batch_min) {
        const Now now = system_now();
        each_client(touched, [&](Client& client) { client.offer(*options.batch, now); });
        options.batch->send(counters);
    }
    each_client(touched, [](Client& client) { client.pump(); });
}

void Wire::Impl::flush_later() {
    if (!flush_posted) {
        flush_posted = true;
        loop.post([this] {
            flush_posted = false;
            flush();
        });
    }
}

namespace {

/// What a good handshake has agreed on.
struct Terms {
    std::string_view subprotocol;        // Empty: none.
    std::optional<std::string> deflate;  // The answer to what was offered.
};

/// A plain client is sent what it always was.
Terms terms_of(const http::Request& request, const WireOptions& options) {
    const std::string offered = list_of(request, "sec-websocket-protocol");
    Terms terms{.subprotocol = subprotocol_of(offered), .deflate = {}};
    if (options.compression && !terms.subprotocol.empty()) {
        terms.deflate = accept_deflate(list_of(request, "sec-websocket-extensions"));
    }
    return terms;
}

/// The answer to a good handshake.
std::string switching_head(const http::Request& request, const Terms& terms) {
    std::string head =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        "Sec-WebSocket-Accept: ";
    head += accept_key(request.header("sec-websocket-key"));
    head.append("\r\nServer: ").append(kServerName).append("\r\nVary: Origin\r\n");
    if (!terms.subprotocol.empty()) {
        head.append("Sec-WebSocket-Protocol: ").append(terms.subprotocol).append("\r\n");
    }
    if (terms.deflate) {
        head.append("Sec-WebSocket-Extensions: ").append(*terms.deflate).append("\r\n");
    }
    return head + "\r\n";
}

/// It reads while its session wants that and its pongs have left, so that a peer which floods and
/// does not read stops being read from.
class Connection final : public Client {
 public:
    Connection(Wire::Impl& wire, http::Upgrade& upgrade, const Terms& terms,
               std::optional<Grant> grant, Now now)
        : Client(wire, upgrade, grant ? &*grant : nullptr),
          encoding_{.msgpack = terms.subprotocol == kMsgpackProtocol,
                    .deflate = terms.deflate.has_value()},
          reader_(wire.options.message_bytes_max, encoding_.deflate),
          unread_(std::move(upgrade.early)),
          may_hold_more_(transport_.tls() != nullptr),
          heard_(now.mono) {
        append(switching_head(upgrade.request, terms));
        const bool v1 = !terms.subprotocol.empty();
        session_ = &wire.hub.open(v1 ? Dialect::kV1 : Dialect::kLegacy, now, std::move(grant));
        session_->client = this;
        uptake_.start(now.mono);
        schedule_ping(now);
    }

    void start() override {
        ++wire_.counters.accepted;
        pump();
    }

    /// Moves what waits in the session to the outbox, as much as has room, and sends it in one
    /// call.
    void pump() override {
        if (!session_ || done_) {
            return;
        }
        if (reading_ && !ended_ && session_->idle() && !session_->closing() && outbox_.empty()) {
            return;  // All of it has left.
        }
        const auto keep = shared_from_this();
        const Now now = system_now();
        bool more = true;
        while (more && !outbox_.closed()) {
            more = fill(now);
            flush();
        }
        if (session_->closing()) {
            close_when_sent(now);
        }
        read_if_wanted();
    }

 private:
    void check(Now now) override {
        const Millis patience =
            std::max(wire_.options.pong_timeout, wire_.options.ping_interval + kPongSlack);
        if (ever_ponged_ && elapsed(heard_, now.mono) > patience) {
            ++wire_.counters.no_pong;
            session_->close({kCloseNoPong, "no_pong"});
            return;
        }
        if (next_ping_ <= now.mono && outbox_.sent() >= pinged_) {
            schedule_ping(now);
            append(ping_frame());
            pinged_ = outbox_.appended();
            flush();
        }
    }

    void append(std::string bytes) {
        outbox_.append(std::make_shared<const std::string>(std::move(bytes)));
    }

    bool fill(Now now) override {
        if (outbox_.closed() || outbox_.room() == 0) {
            return false;
        }
        auto frames = session_->take(outbox_.room(), now, outbox_.bytes_room());
        for (FramePtr& frame : frames) {
            outbox_.append(wire_.encoder.encode(std::move(frame), encoding_, now.mono));
        }
        return !frames.empty() && !session_->idle();
    }

    void schedule_ping(Now now) {
        const Millis interval = wire_.options.ping_interval;
        next_ping_ = now.mono + interval - interval / 10 + wire_.random.upto(interval / 10);
    }

    void on_sent() override {
        if (ended_ && !shut_ && outbox_.empty()) {
            shut_ = true;  // RFC 6455 7.1.1: the server first; the peer's end follows.
            transport_.shutdown_send();
        }
    }

    void on_room() override {
        if (outbox_.room() > 0) {
            pump();
        }
    }

    [[nodiscard]] bool may_read() const {
        return ended_ ||
               ((session_->wants_reading() || session_->closing()) && outbox_.sent() >= ponged_);
    }

    void read_if_wanted() {
        if (reading_ || failed_ || done_) {
            return;
        }
        const bool wanted = may_read();
        wire_.counters.not_read_from += paused_ || wanted ? 0u : 1u;
        paused_ = !wanted;
        if (!wanted) {
            return;
        }
        reading_ = true;
        if (unread_.empty() && !may_hold_more_) {
            transport_.async_wait_input(
                [this, keep = shared_from_this()](error_code ec) { read(ec); });
        } else {
            asio::post(transport_.get_executor(), [this, keep = shared_from_this()] { read({}); });
        }
    }

    /// One turn: what had to wait, or what one call brings.
    void read(error_code ec) {
        if (done_ || failed_) {
            return;  // It is about to leave.
        }
        std::string kept = std::exchange(unread_, {});
        std::span<char> input = kept;
        if (kept.empty()) {
            const ssize_t n = ec ? -1 : transport_.receive(wire_.input.data(), wire_.input.size());
            const bool later = n < 0 && !ec && (errno == EAGAIN || errno == EINTR);
            if (n <= 0 && !later) {
                finish();
                return;
            }
            input = std::span(wire_.input).first(n > 0 ? static_cast<std::size_t>(n) : 0);
            may_hold_more_ = n > 0 && transport_.tls();
        }
        if (!input.empty() && !ended_) {
            const Now now = system_now();
            if (wire_.options.before_input) {
                wire_.options.before_input(now);
            }
            hear(input, now);
            unread_.assign(input.data(), input.size());
            wire_.flush_later();
        }
        reading_ = false;
        read_if_wanted();
    }

    /// Until it may not be read from; what is left of the input is for later.
    void hear(std::span<char>& input, Now now) {
        using Kind = WebSocketReader::Kind;
        while (may_read() && !failed_) {
            const WebSocketReader::Item item = reader_.next(input);
            if (item.kind == Kind::kMore) {
                return;
            }
            heard_ = item.kind == Kind::kFragment ? heard_ : now.mono;
            std::uint16_t over = item.code;  // Of kClose and kBad.
            if (item.kind == Kind::kText || item.kind == Kind::kBinary) {
                over = session_->closing() ? 0 : receive(item, now);
            }
            if (over != 0) {
                if (item.kind != Kind::kClose) {
                    ++(over == kCloseTooBig ? wire_.counters.too_large
                                            : wire_.counters.protocol_errors);
                }
                input = {};
                end(over, now);
                return;
            }
            if (item.kind != Kind::kText && item.kind != Kind::kBinary) {
                wire_.hub.count_frames(*session_, 1, now);
                ever_ponged_ = ever_ponged_ || item.kind == Kind::kPong;
                if (item.kind == Kind::kPing) {
                    fill(now);  // What came before it has been answered before it.
                    append(pong_frame(item.payload));
                    ponged_ = outbox_.appended();
                    flush();
                }
            }
        }
    }

    /// A message: 0, or what to close with.
    std::uint16_t receive(const WebSocketReader::Item& item, Now now) {
        const bool binary = item.kind == WebSocketReader::Kind::kBinary;
        std::string_view payload = item.payload;
        std::string plain;
        if (item.compressed) {
            auto inflated = wire_.encoder.inflate(payload, wire_.options.message_bytes_max);
            if (!inflated) {
                return inflated.error().code == Errc::kTooLarge ? kCloseTooBig : kCloseBadPayload;
            }
            payload = plain = std::move(*inflated);
            if (Utf8Check text; !binary && !(text.feed(payload) && text.whole())) {
                return kCloseBadPayload;
            }
        }
        std::string text;
        if (binary && encoding_.msgpack) {
            const auto unpacked = append_json(text, payload);
            wire_.hub.receive(*session_, text, now, unpacked ? "" : unpacked.error().message);
        } else {
            wire_.hub.receive(*session_, payload, now);
        }
        return 0;
    }

    /// The peer has ended it, or has to be told that it failed. Nothing that comes is looked at any
    /// more.
    void end(std::uint16_t code, Now now) {
        ended_ = true;
        limit_closing(now);
        fill(now);                    // The answers to what came before,
        append(close_frame(code));    // and this, unless one has gone before.
        session_->close({code, {}});  // Whatever else there would be is for nobody.
        flush();
    }

    void close_when_sent(Now now) override {
        limit_closing(now);
        if (outbox_.closed() || !session_->idle()) {
            return;
        }
        const Session::Close& why = *session_->closing();
        append(close_frame(why.code, why.reason));
        flush();
        read_if_wanted();  // For the peer's close frame.
    }

    const Encoding encoding_;
    WebSocketReader reader_;
    std::string unread_;        // What had come when it was not to be read from any more.
    std::uint64_t ponged_ = 0;  // As the outbox counts: up to the last pong,
    std::uint64_t pinged_ = 0;  // and the last ping.
    bool reading_ = false;      // Something is on its way that ends in read().
    bool may_hold_more_;        // TLS has decrypted what the socket knows nothing of any more.
    bool paused_ = false;
    bool ever_ponged_ = false;
    bool ended_ = false;
    Mono heard_;
    Mono next_ping_{};
};

}  // namespace

void Wire::Impl::sweep_all() {
    const Now now = system_now();
    for (std::size_t i = 0; i < clients.size(); ++i) {
        clients[i]->sweep(now);  // None leaves, or comes, within it.
    }
    give_back_memory();
    sweep.set(now.mono + kSweep);
}

/// glibc keeps what many clients had until somebody asks. Each time at least half of them have
/// left, so that it is asked a few times for as many clients as there ever are.
void Wire::Impl::give_back_memory() {
    if (clients.size() + kGiveBackMin <= most_clients && clients.size() * 2 <= most_clients) {
        most_clients = clients.size();
        ::malloc_trim(0);
    }
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
    const Now now = system_now();
    if (impl_->options.before_input) {
        impl_->options.before_input(now);
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
        impl_->add(std::make_shared<Connection>(
            *impl_, upgrade, terms_of(upgrade.request, impl_->options), std::move(grant), now));
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
    const Occupancy& all = impl_->hub.occupancy();
    const auto busy = [&](std::string_view message) {
        return events ? stream_of_goodbye({kCloseOverCapacity, "over_capacity"}, kFullRetryMin,
                                          kFullRetryMax, impl_->random)
                      : try_later(message);
    };
    if (auto refused = events ? refuse_events(request)
                              : refuse_upgrade(request, impl_->options, all.clients)) {
        counters.clients_full += refused->status == 503 ? 1u : 0u;
        return refused;
    }
    if (all.clients >= impl_->options.clients_max) {
        ++counters.clients_full;
        return busy("edge.clients_max connections are open");
    }
    if (impl_->hub.closed(system_now().mono)) {
        return events ? stream_of_goodbye({kCloseDraining, "draining"}, kStreamRetryMin,
                                          kStreamRetryMax, impl_->random)
                      : try_later("this edge ends; another one serves the same");
    }
    if (all.addresses.full(http::address_key(request.peer),
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
        return grant ? denied_events(request, *grant, impl_->hub) : unauthorized("");
    }
    if (!grant && all.waiting >= impl_->options.waiting_max) {
        ++counters.waiting_full;
        return try_later("too many connections have not sent their token yet");
    }
    return std::nullopt;
}

void Wire::flush() {
    impl_->flush();
}

void Wire::abort_all() {
    for (const auto& client : impl_->clients) {
        client->abort();  // They leave later.
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
const EncodeCounters& Wire::encodes() const {
    return impl_->encoder.counters();
}
const WireOptions& Wire::options() const {
    return impl_->options;
}

}  // namespace sigmacast::edge
