#include "common/http.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <cctype>
#include <charconv>
#include <ctime>
#include <deque>
#include <exception>
#include <list>
#include <optional>
#include <unordered_set>
#include <utility>

#include "common/http_upgrade.h"
#include "common/log.h"
#include "common/tally.h"
#include "common/tls.h"
#include "common/transport.h"

namespace sigmacast::http {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

namespace {

constexpr std::uint32_t kHeaderBytesMax = 8u << 10;   // Of an answer; beyond it kTooLarge.
constexpr Millis kAnswerTimeMax{30'000};              // For a handler to respond; then 503.
constexpr std::size_t kSmallAnswerBytes = 64u << 10;  // May use what large answers may not.
constexpr std::string_view kRetryAfterSeconds = "5";  // When answers that nobody reads have gone.
constexpr Millis kLingerTimeMax{1'000};               // For the client to close after us.
constexpr std::size_t kLingerBytesMax = 1u << 20;     // What is read and thrown away meanwhile.
// What has been read and not been taken. Beast throws at a field that is longer than this, and
// looks at the length of a header alone: not of a trailer, nor of a chunk's extension.
constexpr std::size_t kReadMax = 65'535;
constexpr Millis kAcceptPause{100};         // After accept() failed.
constexpr std::size_t kWaitingMax = 1'024;  // Requests that wait for a connection; then kFull.
// The kernel takes net.core.somaxconn of it. Who finds it full tries again after a second.
constexpr int kListenBacklog = 65'535;

std::string lower(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    return result;
}

template <class Fields>
Headers copy_headers(const Fields& fields) {
    Headers headers;
    for (const auto& field : fields) {
        headers.emplace_back(lower(std::string_view(field.name_string())),
                             std::string(field.value()));
    }
    return headers;
}

/// RFC 9110, section 5.6.7.
std::string http_date() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    ::gmtime_r(&now, &parts);
    std::array<char, 40> text{};
    const std::size_t size =
        std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    return {text.data(), size};
}

/// "Connection refused" -> "connection refused", as the second half of a sentence.
std::string reason(const ErrorCode& error) {
    std::string text = error.message();
    if (text.size() > 1 && std::islower(static_cast<unsigned char>(text[1])) != 0) {
        text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
    }
    return text;
}

std::string authority(const std::string& host, std::uint16_t port) {
    const bool v6 = host.find(':') != std::string::npos;
    return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string without_brackets(std::string host) {
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
        return host.substr(1, host.size() - 2);
    }
    return host;
}

Mono in(Millis wait) {
    return BootClock::now() + wait;
}

/// "[::1]:80" -> "[::1]", "Nas.example.:8443" -> "nas.example".
std::string host_name(std::string_view authority) {
    const std::size_t colon = authority.rfind(':');
    const std::size_t bracket = authority.rfind(']');
    if (colon != std::string_view::npos && (bracket == std::string_view::npos || bracket < colon)) {
        authority.remove_suffix(authority.size() - colon);
    }
    if (authority.ends_with('.')) {
        authority.remove_suffix(1);
    }
    return lower(authority);
}

/// Whether a request for this Host is meant for a server on loopback. None at all is fine: every
/// browser names one.
bool host_accepted(std::string_view host, const std::vector<std::string>& origins) {
    return host.empty() || is_loopback_name(host) ||
           std::any_of(origins.begin(), origins.end(), [&](std::string_view origin) {
               const std::size_t scheme = origin.find("://");
               return origin == "*" || (scheme != std::string_view::npos &&
                                        host_name(origin.substr(scheme + 3)) == host_name(host));
           });
}

bool is_error_of_http(const ErrorCode& error) {
    static const ErrorCode kOfHttp = bhttp::make_error_code(bhttp::error::end_of_stream);
    return error.category() == kOfHttp.category();
}

}  // namespace

std::string address_key(std::string_view peer) {
    ErrorCode error;
    auto address = asio::ip::make_address(std::string(peer), error);
    if (error) {
        return {};
    }
    if (address.is_v6() && address.to_v6().is_v4_mapped()) {
        address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
    }
    if (address.is_loopback()) {
        return {};
    }
    if (address.is_v4()) {
        return address.to_string();
    }
    auto bytes = address.to_v6().to_bytes();
    if (address.to_v6().is_link_local() || (bytes[0] & 0xfeu) == 0xfc) {
        return address.to_string();  // Of a network at home: all its hosts share the prefix.
    }
    std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t{0});
    return asio::ip::address_v6(bytes).to_string() + "/64";
}

std::string_view Request::header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
        if (key == name) {
            return value;
        }
    }
    return {};
}

std::vector<std::string> Request::parameters(std::string_view name) const {
    std::vector<std::string> values;
    for (std::string_view rest = query; !rest.empty();) {
        const std::size_t end = std::min(rest.find('&'), rest.size());
        const std::string_view pair = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        const std::size_t equals = std::min(pair.find('='), pair.size());
        if (percent_decoded(pair.substr(0, equals)) == name) {
            values.push_back(percent_decoded(pair.substr(std::min(equals + 1, pair.size()))));
        }
    }
    return values;
}

std::string percent_decoded(std::string_view text) {
    const auto digit = [&](std::size_t i) {
        const char c = i < text.size() ? text[i] : ' ';
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                      : -1;
    };
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool escape = text[i] == '%' && digit(i + 1) >= 0 && digit(i + 2) >= 0;
        out += escape ? static_cast<char>(digit(i + 1) * 16 + digit(i + 2)) : text[i];
        i += escape ? 2 : 0;
    }
    return out;
}

std::string stream_head(const Response& response, std::string_view server_name) {
    const auto status = static_cast<bhttp::status>(response.status);
    std::string out = "HTTP/1.1 " + std::to_string(response.status) + ' ';
    out += std::string_view(bhttp::obsolete_reason(status));
    const auto add = [&out](std::string_view name, std::string_view value) {
        out.append("\r\n").append(name).append(": ").append(value);
    };
    add("Server", server_name);
    add("Date", http_date());
    add("Content-Type", response.content_type);
    for (const auto& [name, value] : response.headers) {
        add(name, value);
    }
    add("Connection", "close");
    return out + "\r\n\r\n";
}

bool is_loopback_name(std::string_view host) {
    const std::string name = host_name(host);
    ErrorCode not_literal;
    const auto address = asio::ip::make_address_v4(name, not_literal);
    return name == "localhost" || name.ends_with(".localhost") || name == "[::1]" ||
           (!not_literal && address.is_loopback());
}

// ----------------------------------------------------------------------------------------------------------
// Server

namespace {

class Connection;

/// What the connections of a server share. The server takes the handlers out when it ends.
struct Shared {
    Shared(Loop& the_loop, ServerOptions the_options, Server::Handler the_handler,
           Server::UpgradeHandler the_upgrade)
        : loop(the_loop),
          options(std::move(the_options)),
          handler(std::move(the_handler)),
          upgrade(std::move(the_upgrade)),
          counters(options.counters ? *options.counters : uncounted) {}

    Loop& loop;
    const ServerOptions options;
    Server::Handler handler;
    Server::UpgradeHandler upgrade;
    std::unordered_set<std::shared_ptr<Connection>> connections;
    std::list<Connection*> handshakes;   // Of TLS, that are on their way; the oldest first.
    std::size_t pending_bytes = 0;       // Of bodies that are being written.
    Tally addresses{options.addresses};  // Of the connections.
    ServerCounters uncounted;            // Where the options name none.
    ServerCounters& counters;
    bool on_loopback = true;
    bool stopping = false;
};

/// One client. Requests are answered one after the other, in the order in which they came. It is
/// owned by the server's set of connections, and by each operation that is pending.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
    Connection(std::shared_ptr<Shared> shared, tcp::socket socket, std::string peer,
               Tally::Seat address)
        : shared_(std::move(shared)),
          transport_(std::move(socket)),
          address_(std::move(address)),
          timer_(shared_->loop, [this] { on_time(); }),
          peer_(std::move(peer)) {}

    void start() {
        if (shared_->options.tls) {
            return shake_hands();
        }
        read_header();
    }

    void close() {
        leave_handshakes();
        state_ = State::kClosed;
        release_body();
        timer_.set(std::nullopt);
        transport_.close();
        shared_->connections.erase(shared_from_this());
    }

    /// The server stops: what is being answered still is.
    void close_if_idle() {
        if (state_ == State::kIdle || state_ == State::kHandshake) {
            close();
        }
    }

 private:
    enum class State { kHandshake, kIdle, kBody, kAnswering, kWriting, kLingering, kClosed };
    using Parser = bhttp::request_parser<bhttp::string_body>;

    void on_time() {
        const auto self = shared_from_this();  // close() may drop the last owner.
        if (state_ == State::kAnswering) {
            return respond(turn_, {.status = 503, .body = R"({"error":"no answer in time"})"},
                           true);
        }
        if (!continuing_ && (state_ == State::kBody ||
                             (state_ == State::kIdle && parser_ && parser_->got_some()))) {
            ++shared_->counters.late;
            late_ = true;  // The read goes on; what it brings is not looked at.
            return refuse(408, "the request did not come in time");
        }
        close();
    }

    void shake_hands() {
        state_ = State::kHandshake;
        timer_.set(in(shared_->options.handshake_max));
        transport_.start_tls(shared_->options.tls->open(transport_.next_layer().native_handle()));
        handshake_ = shared_->handshakes.insert(shared_->handshakes.end(), this);
        if (shared_->handshakes.size() > shared_->options.handshakes_max) {
            // The one that has had the most time: a peer that goes on takes far less.
            shared_->handshakes.front()->close();
        }
        transport_.async_handshake(
            [self = shared_from_this()](const ErrorCode& error) { self->on_handshake(error); });
    }

    void on_handshake(const ErrorCode& error) {
        if (state_ == State::kClosed) {
            return;
        }
        if (!error) {
            ++shared_->options.tls->counters.handshakes;
            state_ = State::kIdle;
            leave_handshakes();
            return read_header();
        }
        const bool http = transport_.tls()->heard_http();
        leave_handshakes();
        transport_.stop_tls();
        if (!http) {
            return close();
        }
        refuse(400, "this port speaks TLS: use https:// or wss://");
    }

    /// Counted as failed unless it has come to a good end.
    void leave_handshakes() {
        if (handshake_) {
            shared_->options.tls->counters.handshakes_failed +=
                state_ == State::kHandshake ? 1u : 0u;
            shared_->handshakes.erase(*handshake_);
            handshake_.reset();
        }
    }

    void read_header() {
        if (shared_->stopping) {
            return close();
        }
        state_ = State::kIdle;
        timer_.set(in(shared_->options.idle_max));
        parser_.emplace();
        headers_.reset();
        parser_->header_limit(static_cast<std::uint32_t>(shared_->options.header_bytes_max));
        parser_->body_limit(shared_->options.body_bytes_max);
        bhttp::async_read_header(transport_, buffer_, *parser_,
                                 [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                                     self->on_header(error);
                                 });
    }

    void on_header(const ErrorCode& error) {
        if (state_ == State::kClosed || late_) {
            return;
        }
        if (error) {
            return on_read_error(error);
        }
        const auto& fields = parser_->get();
        if (fields.count(bhttp::field::transfer_encoding) > 0 && !parser_->chunked()) {
            return refuse(400, "Transfer-Encoding has to end with chunked");  // RFC 9112, 6.3.
        }
        if (fields.count(bhttp::field::host) > 1) {
            return refuse(400, "there is more than one Host");
        }
        if (lower(std::string_view(fields[bhttp::field::expect])) == "100-continue") {
            return write_continue();
        }
        if (parser_->is_done()) {
            return on_body({});  // There is none: nothing to wait for.
        }
        read_body();
    }

    void write_continue() {
        static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        state_ = State::kBody;
        continuing_ = true;
        timer_.set(in(shared_->options.idle_max));
        asio::async_write(transport_, asio::buffer(kContinue),
                          [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                              self->continuing_ = false;
                              if (error) {
                                  return self->close_unless_closed();
                              }
                              self->read_body();
                          });
    }

    void read_body() {
        if (state_ == State::kClosed) {
            return;
        }
        state_ = State::kBody;
        headers_ = copy_headers(parser_->get());
        timer_.set(in(shared_->options.idle_max));
        bhttp::async_read(transport_, buffer_, *parser_,
                          [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                              self->on_body(error);
                          });
    }

    void on_body(const ErrorCode& error) {
        if (state_ == State::kClosed || late_) {
            return;
        }
        if (error) {
            return on_read_error(error);
        }
        bhttp::request<bhttp::string_body> message = parser_->release();
        parser_.reset();
        keep_alive_ = message.keep_alive();
        version_ = message.version();
        head_ = message.method() == bhttp::verb::head;
        Request request;
        if (!describe(message, request)) {
            return refuse(400, "the request target is not a path", head_);
        }
        if (shared_->on_loopback &&
            !host_accepted(request.header("host"), shared_->options.origins)) {
            return refuse(421,
                          "Host is neither a loopback name nor among the configured origins "
                          "(of an edge: edge.cors_origins)",
                          head_);
        }
        if (shared_->upgrade && (wants_websocket(request) || wants_stream(request))) {
            if (offer(request)) {
                return;
            }
        }
        answer(request);
    }

    /// Takes the body out of `message`.
    bool describe(bhttp::request<bhttp::string_body>& message, Request& request) {
        std::string_view target(message.target());
        const std::size_t scheme = target.find("://");
        if (!target.empty() && target.front() != '/' && scheme != std::string_view::npos) {
            const std::size_t path = target.find('/', scheme + 3);  // Absolute form, as to a proxy.
            target = path == std::string_view::npos ? std::string_view("/") : target.substr(path);
        }
        if (target.empty() || (target.front() != '/' && target != "*")) {
            return false;
        }
        const std::size_t question = target.find('?');
        request.method = std::string(message.method_string());
        request.path = std::string(target.substr(0, question));
        request.query = question == std::string_view::npos
                            ? std::string()
                            : std::string(target.substr(question + 1));
        request.headers = headers_ ? std::move(*headers_) : copy_headers(message);
        request.peer = peer_;
        request.encrypted = transport_.tls() != nullptr;
        request.version = message.version();
        request.body = std::move(message.body());
        return true;
    }

    static bool wants_websocket(const Request& request) {
        return request.method == "GET" &&
               std::any_of(request.headers.begin(), request.headers.end(), [](const auto& line) {
                   return line.first == "upgrade" &&
                          bhttp::token_list(line.second).exists("websocket");
               });
    }

    [[nodiscard]] bool wants_stream(const Request& request) const {
        const auto& paths = shared_->options.streams;
        return (request.method == "GET" || request.method == "HEAD") &&
               std::find(paths.begin(), paths.end(), request.path) != paths.end();
    }

    /// True: the hook took the socket, or nothing is left to answer on.
    bool offer(const Request& request) {
        timer_.set(std::nullopt);
        Upgrade upgrade{std::move(transport_), beast::buffers_to_string(buffer_.data()), request};
        bool taken = false;
        try {
            taken = shared_->upgrade(upgrade);
        } catch (const std::exception& problem) {
            log_error("upgrade handler failed", {{"what", std::string(problem.what())}});
            taken = true;
        }
        if (taken) {
            close();
            return true;
        }
        transport_ = std::move(upgrade.transport);
        return false;
    }

    void answer(const Request& request) {
        state_ = State::kAnswering;
        timer_.set(in(kAnswerTimeMax));
        auto respond = [weak = weak_from_this(), turn = turn_](Response response) {
            if (const auto self = weak.lock()) {
                self->respond(turn, std::move(response), false);
            }
        };
        try {
            shared_->handler(request, respond);
        } catch (const std::exception& problem) {
            log_error("request handler failed",
                      {{"path", request.path}, {"what", std::string(problem.what())}});
            respond({.status = 500, .body = R"({"error":"internal error"})"});
        }
    }

    /// Ignored unless it answers the request that is being answered.
    void respond(std::uint64_t turn, Response response, bool then_close) {
        if (state_ != State::kAnswering || turn != turn_) {
            return;
        }
        ++turn_;
        state_ = State::kWriting;
        timer_.set(in(shared_->options.write_max));
        keep_alive_ = keep_alive_ && !then_close && !shared_->stopping;
        if (!admit(response.body.size())) {
            response = {.status = 503,
                        .body = R"({"code":503,"error":"too many answers wait to be read"})",
                        .headers = {{"Retry-After", std::string(kRetryAfterSeconds)}}};
        }
        body_bytes_ = head_ ? 0 : response.body.size();
        shared_->pending_bytes += body_bytes_;
        fill(std::move(response));
        bhttp::async_write(transport_, *message_,
                           [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                               self->on_written(error);
                           });
    }

    /// One that is alone is always let through: a body over the bound could never be asked for.
    [[nodiscard]] bool admit(std::size_t bytes) const {
        const std::size_t most = shared_->options.pending_bytes_max;
        const std::size_t limit = bytes <= kSmallAnswerBytes ? most : most - most / 8;
        return head_ || shared_->pending_bytes == 0 || shared_->pending_bytes + bytes <= limit;
    }

    void release_body() { shared_->pending_bytes -= std::exchange(body_bytes_, 0); }

    void fill(Response response) {
        message_.emplace();
        message_->version(version_);
        message_->result(static_cast<unsigned>(response.status));
        message_->set(bhttp::field::server, shared_->options.server_name);
        message_->set(bhttp::field::date, http_date());
        message_->keep_alive(keep_alive_);
        for (const auto& [name, value] : response.headers) {
            message_->insert(name, value);
        }
        const bool bodiless =
            response.status < 200 || response.status == 204 || response.status == 304;
        if (bodiless) {
            return;
        }
        if (!response.content_type.empty()) {
            message_->set(bhttp::field::content_type, response.content_type);
        }
        message_->content_length(response.body.size());
        if (!head_) {
            message_->body() = std::move(response.body);
        }
    }

    void on_written(const ErrorCode& error) {
        if (state_ == State::kClosed) {
            return;
        }
        message_.reset();
        release_body();
        if (error || late_) {
            return close();
        }
        if (keep_alive_ && !shared_->stopping) {
            return read_header();
        }
        linger();
    }

    void on_read_error(const ErrorCode& error) {
        if (error == bhttp::error::header_limit) {
            ++shared_->counters.header_too_large;
            return refuse(431, "the request header is over " +
                                   std::to_string(shared_->options.header_bytes_max) + " bytes");
        }
        if (error == bhttp::error::body_limit) {
            return refuse(413, "the request body is over " +
                                   std::to_string(shared_->options.body_bytes_max) + " bytes");
        }
        if (error == bhttp::error::buffer_overflow) {
            ++shared_->counters.header_too_large;
            return refuse(431, "a trailer or a chunk's extension is over 64 KiB");
        }
        if (error == bhttp::error::end_of_stream || error == bhttp::error::partial_message ||
            !is_error_of_http(error)) {
            return close();
        }
        refuse(400, "the request is not HTTP/1.1: " + reason(error));
    }

    /// An answer to what never became a request, and the end of the connection.
    void refuse(int status, const std::string& why, bool head = false) {
        std::string body = R"({"error":")" + why + R"("})";
        version_ = 11;
        head_ = head;
        state_ = State::kAnswering;
        respond(turn_, {.status = status, .body = std::move(body)}, true);
    }

    /// Closing with unread bytes would reset the connection, and the client might lose the answer.
    void linger() {
        state_ = State::kLingering;
        timer_.set(in(kLingerTimeMax));
        transport_.shutdown_send();
        buffer_.clear();
        discard(0);
    }

    void discard(std::size_t so_far) {
        if (so_far > kLingerBytesMax) {
            return close();
        }
        buffer_.clear();
        transport_.next_layer().async_read_some(  // Nobody decrypts what nobody reads.
            buffer_.prepare(16u << 10),
            [self = shared_from_this(), so_far](const ErrorCode& error, std::size_t size) {
                if (error) {
                    return self->close_unless_closed();
                }
                if (self->state_ == State::kLingering) {
                    self->discard(so_far + size);
                }
            });
    }

    void close_unless_closed() {
        if (state_ != State::kClosed) {
            close();
        }
    }

    const std::shared_ptr<Shared> shared_;
    Transport transport_;
    Tally::Seat address_;  // Until the connection is closed, or another protocol's.
    Timer timer_;
    std::string peer_;
    beast::flat_buffer buffer_{kReadMax};
    std::optional<Parser> parser_;
    std::optional<Headers> headers_;  // Where a body follows: as they were before its trailer.
    std::optional<bhttp::response<bhttp::string_body>> message_;
    State state_ = State::kIdle;
    std::optional<std::list<Connection*>::iterator> handshake_;  // In Shared::handshakes.
    std::uint64_t turn_ =
        0;  // Of the request being answered; a late or second response has an old one.
    std::size_t body_bytes_ = 0;  // Counted in Shared::pending_bytes.
    unsigned version_ = 11;
    bool keep_alive_ = true;
    bool head_ = false;
    bool continuing_ = false;  // "100 Continue" is being written: nothing else may be.
    bool late_ = false;        // A read is on its way that nobody waits for.
};

Result<tcp::endpoint> listen_endpoint(Loop& loop, const ServerOptions& options) {
    const std::string host = without_brackets(options.host);
    ErrorCode error;
    const auto address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
    if (!error) {
        return tcp::endpoint(address, options.port);
    }
    tcp::resolver resolver(loop.context());
    const auto found = resolver.resolve(host, std::to_string(options.port), error);
    if (error || found.empty()) {
        return Error{Errc::kUnavailable, host + " is not the name of an address: " + reason(error)};
    }
    return found.begin()->endpoint();
}

std::string listen_problem(const ServerOptions& options, const ErrorCode& error) {
    const std::string where = authority(without_brackets(options.host), options.port);
    if (error == boost::system::errc::address_in_use) {
        return where + " is in use by another program";
    }
    if (error == boost::system::errc::address_not_available) {
        return where + " is not an address of this machine";
    }
    if (error == boost::system::errc::permission_denied) {
        return where + " needs more rights: use a port above 1023";
    }
    return "cannot listen on " + where + ": " + reason(error);
}

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
    Impl(Loop& loop, ServerOptions options, Handler handler, UpgradeHandler upgrade)
        : shared(std::make_shared<Shared>(loop, std::move(options), std::move(handler),
                                          std::move(upgrade))),
          acceptor(loop.context()),
          pause(loop, [this] { accept(); }) {}

    Result<> start();
    ErrorCode share_port();
    void accept();
    void on_accept(const ErrorCode& error, tcp::socket socket);
    void note_failure(const ErrorCode& error);
    void stop();
    void end();

    std::shared_ptr<Shared> shared;
    tcp::acceptor acceptor;
    tcp::endpoint peer;  // Of the connection that is being accepted.
    Timer pause;
    std::uint64_t failures = 0;  // Of accept(), in a row.
};

ErrorCode Server::Impl::share_port() {
    const int on = 1;
    return ::setsockopt(acceptor.native_handle(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0
               ? ErrorCode()
               : ErrorCode(errno, boost::system::system_category());
}

Result<> Server::Impl::start() {
    const Result<tcp::endpoint> endpoint = listen_endpoint(shared->loop, shared->options);
    if (!endpoint) {
        return endpoint.error();
    }
    shared->on_loopback = endpoint->address().is_loopback();
    ErrorCode error;
    const PortUse use = shared->options.port_use;
    acceptor.open(endpoint->protocol(), error);
    if (!error) {
        acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    }
    if (!error) {
        acceptor.set_option(tcp::no_delay(true), error);  // Linux: its connections have it, too.
    }
    if (!error && use == PortUse::kAlso) {
        error = share_port();
    }
    if (!error) {
        acceptor.bind(*endpoint, error);
    }
    if (!error) {
        acceptor.listen(kListenBacklog, error);
    }
    // Once it listens: what shares its port from the beginning does not notice who has it, too.
    if (!error && use == PortUse::kFirst) {
        error = share_port();
    }
    if (error) {
        ErrorCode ignored;
        acceptor.close(ignored);
        return Error{Errc::kUnavailable, listen_problem(shared->options, error)};
    }
    accept();
    return {};
}

void Server::Impl::accept() {
    acceptor.async_accept(peer,
                          [self = shared_from_this()](const ErrorCode& error, tcp::socket socket) {
                              self->on_accept(error, std::move(socket));
                          });
}

void Server::Impl::on_accept(const ErrorCode& error, tcp::socket socket) {
    if (shared->stopping || error == asio::error::operation_aborted) {
        return;
    }
    if (error) {
        note_failure(error);
        pause.set(in(kAcceptPause));
        return;
    }
    if (failures > 0) {
        log_info("accepting again", {{"failures", std::exchange(failures, 0)}});
    }
    // Numbers of descriptors are given from below: there are no more than this.
    shared->loop.reserve_descriptors(static_cast<std::size_t>(socket.native_handle()));
    std::string from = peer.address().to_string();
    const std::string key = address_key(from);
    if (shared->addresses.full(key, shared->options.connections_per_address_max)) {
        ++shared->counters.address_turned_away;
        ErrorCode ignored;
        socket.close(ignored);
    } else if (shared->connections.size() < shared->options.connections_max) {
        auto connection = std::make_shared<Connection>(shared, std::move(socket), std::move(from),
                                                       shared->addresses.take(key));
        shared->connections.insert(connection);
        connection->start();
    } else {
        ++shared->counters.turned_away;
        ErrorCode ignored;
        socket.close(ignored);
    }
    accept();
}

/// The first of a row and each hundredth: one line in ten seconds.
void Server::Impl::note_failure(const ErrorCode& error) {
    if (failures++ % 100 == 0) {
        log_warn("cannot accept connections; trying again",
                 {{"address", authority(shared->options.host, shared->options.port)},
                  {"why", reason(error)},
                  {"failures", failures}});
    }
}

void Server::Impl::stop() {
    shared->stopping = true;
    pause.set(std::nullopt);
    ErrorCode ignored;
    acceptor.close(ignored);
    const auto connections = shared->connections;  // Closing one takes it out of the set.
    for (const auto& connection : connections) {
        connection->close_if_idle();
    }
}

void Server::Impl::end() {
    stop();
    const auto connections = shared->connections;
    for (const auto& connection : connections) {
        connection->close();
    }
}

Server::Server(Loop& loop, ServerOptions options, Handler handler, UpgradeHandler upgrade)
    : impl_(std::make_shared<Impl>(loop, std::move(options), std::move(handler),
                                   std::move(upgrade))) {}

Server::~Server() {
    impl_->end();
}

Result<> Server::start() {
    return impl_->start();
}

void Server::stop() {
    impl_->stop();
}

std::uint16_t Server::port() const {
    ErrorCode ignored;
    return impl_->acceptor.local_endpoint(ignored).port();
}

// ----------------------------------------------------------------------------------------------------------
// Client

namespace {

struct Base {
    bool tls = false;
    std::string host;  // Without brackets.
    std::uint16_t port = 80;
    std::string path;       // Without a slash at the end.
    std::string authority;  // "127.0.0.1:5000".
    std::string name;       // "http://127.0.0.1:5000", for messages.
};

bool parse_port(std::string_view text, std::uint16_t& port) {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), port);
    return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && port > 0;
}

Result<Base> parse_base(const std::string& text, bool may_be_tls) {
    const auto parsed = boost::urls::parse_uri(text);
    Base base;
    base.tls = parsed && may_be_tls && parsed->scheme() == "https";
    if (!parsed || (!base.tls && parsed->scheme() != "http") || parsed->host().empty()) {
        return Error{Errc::kInvalid, "'" + text + "' is not a URL as http://host:port/path"};
    }
    base.port = base.tls ? 443 : 80;
    base.host = without_brackets(parsed->host());
    if (!parsed->port().empty() && !parse_port(parsed->port(), base.port)) {
        return Error{Errc::kInvalid, "'" + text + "' has no port from 1 to 65535"};
    }
    base.path = std::string(parsed->encoded_path());
    while (!base.path.empty() && base.path.back() == '/') {
        base.path.pop_back();
    }
    base.authority = authority(base.host, base.port);
    base.name = (base.tls ? "https://" : "http://") + base.authority;
    return base;
}

/// A request on its way. Its timer and `done` are cleared by whoever ends it.
struct Call {
    std::string method;
    std::string target;
    std::string body;
    Client::Done done;  // Empty: ended.
    std::unique_ptr<Timer> timer;
    bool retried = false;
    const char* stage = "waiting for a connection";
};

struct Link {
    explicit Link(asio::io_context& context) : transport(tcp::socket(context)), resolver(context) {}

    void close() {
        closed = true;
        resolver.cancel();
        transport.close();
    }

    Transport transport;
    tcp::resolver resolver;
    beast::flat_buffer buffer{kReadMax};
    bhttp::request<bhttp::string_body> request;
    std::optional<bhttp::response_parser<bhttp::string_body>> parser;
    std::shared_ptr<Call> call;
    bool kept = false;  // It has carried an answer before.
    bool closed = false;
};

}  // namespace

struct Client::Impl : std::enable_shared_from_this<Client::Impl> {
    Impl(Loop& the_loop, const std::string& url, ClientOptions the_options)
        : loop(the_loop),
          options(std::move(the_options)),
          base(parse_base(url, options.tls != nullptr)) {}

    void submit(const std::shared_ptr<Call>& call, Mono deadline);
    void dispatch(const std::shared_ptr<Call>& call);
    std::shared_ptr<Link> take_idle();
    void open(const std::shared_ptr<Call>& call);
    void connect(const std::shared_ptr<Link>& link, const tcp::resolver::results_type& found);
    void resolve(const std::shared_ptr<Link>& link);
    void shake_hands(const std::shared_ptr<Link>& link);
    void send(const std::shared_ptr<Link>& link);
    void receive(const std::shared_ptr<Link>& link);
    void on_received(const std::shared_ptr<Link>& link, const ErrorCode& error);
    void on_answer(const std::shared_ptr<Link>& link);
    void on_broken(const std::shared_ptr<Link>& link, const ErrorCode& error);
    void on_deadline(const std::shared_ptr<Call>& call);
    void finish(const std::shared_ptr<Call>& call, Result<Response> result);
    void drop(const std::shared_ptr<Link>& link);
    void serve_waiting();
    void end();
    [[nodiscard]] Error broken(const ErrorCode& error, bool some) const;
    [[nodiscard]] Error problem(Errc code, const std::string& what) const;

    Loop& loop;
    const ClientOptions options;
    const Result<Base> base;
    std::unordered_set<std::shared_ptr<Link>> links;  // All of them, at most connections_max.
    std::vector<std::shared_ptr<Link>> idle;
    std::deque<std::shared_ptr<Call>> waiting;
    bool ended = false;
};

Error Client::Impl::problem(Errc code, const std::string& what) const {
    return {code, base->name + ": " + what};
}

void Client::Impl::submit(const std::shared_ptr<Call>& call, Mono deadline) {
    if (!base) {
        return loop.post(
            [self = shared_from_this(), call] { self->finish(call, self->base.error()); });
    }
    call->timer = std::make_unique<Timer>(loop, [this, weak = std::weak_ptr(call)] {
        if (const auto late = weak.lock()) {
            on_deadline(late);
        }
    });
    call->timer->set(deadline);
    dispatch(call);
}

void Client::Impl::dispatch(const std::shared_ptr<Call>& call) {
    if (const auto link = take_idle()) {
        link->call = call;
        return send(link);
    }
    if (links.size() < options.connections_max) {
        return open(call);
    }
    if (waiting.size() < kWaitingMax) {
        waiting.push_back(call);
        return;
    }
    loop.post([self = shared_from_this(), call] {
        self->finish(call, self->problem(Errc::kFull, "too many requests wait for an answer"));
    });
}

/// The one that was used last, unless the server has closed it meanwhile.
std::shared_ptr<Link> Client::Impl::take_idle() {
    while (!idle.empty()) {
        const std::shared_ptr<Link> link = std::move(idle.back());
        idle.pop_back();
        char byte = 0;
        const auto peeked =
            ::recv(link->transport.next_layer().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (peeked < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return link;
        }
        drop(link);
    }
    return nullptr;
}

void Client::Impl::open(const std::shared_ptr<Call>& call) {
    const auto link = std::make_shared<Link>(loop.context());
    links.insert(link);
    link->call = call;
    call->stage = "connecting";
    ErrorCode not_literal;
    const auto address = asio::ip::make_address(base->host, not_literal);
    if (not_literal) {
        return resolve(link);
    }
    const tcp::endpoint endpoint(address, base->port);
    connect(link, tcp::resolver::results_type::create(endpoint, base->host, ""));
}

void Client::Impl::resolve(const std::shared_ptr<Link>& link) {
    link->resolver.async_resolve(
        base->host, std::to_string(base->port),
        [self = shared_from_this(), link](const ErrorCode& error,
                                          const tcp::resolver::results_type& found) {
            if (link->closed) {
                return;
            }
            if (error) {
                return self->on_broken(link, error);
            }
            self->connect(link, found);
        });
}

void Client::Impl::connect(const std::shared_ptr<Link>& link,
                           const tcp::resolver::results_type& found) {
    asio::async_connect(
        link->transport.next_layer(), found,
        [self = shared_from_this(), link](const ErrorCode& error, const tcp::endpoint&) {
            if (link->closed) {
                return;
            }
            if (error) {
                return self->on_broken(link, error);
            }
            ErrorCode ignored;
            link->transport.next_layer().set_option(tcp::no_delay(true), ignored);
            self->base->tls ? self->shake_hands(link) : self->send(link);
        });
}

void Client::Impl::shake_hands(const std::shared_ptr<Link>& link) {
    link->transport.start_tls(
        options.tls->open(link->transport.next_layer().native_handle(), base->host));
    link->transport.async_handshake([self = shared_from_this(), link](const ErrorCode& error) {
        if (link->closed) {
            return;
        }
        if (error) {
            return self->on_broken(link, error);
        }
        self->send(link);
    });
}

void Client::Impl::send(const std::shared_ptr<Link>& link) {
    Call& call = *link->call;
    call.stage = "sending";
    const std::string target = base->path + call.target;
    link->request = {};
    link->request.version(11);
    link->request.method_string(call.method);
    link->request.target(target.empty() || target.front() != '/' ? "/" + target : target);
    for (const auto& [name, value] : options.headers) {
        link->request.set(name, value);
    }
    link->request.set(bhttp::field::host, base->authority);
    link->request.set(bhttp::field::user_agent, std::string("sigmacast/") + SIGMACAST_VERSION);
    link->request.set(bhttp::field::accept, "application/json");
    if (!call.body.empty() || call.method == "POST") {
        link->request.set(bhttp::field::content_type, "application/json");
        link->request.body() = call.body;  // A copy: a retry sends it again.
        link->request.prepare_payload();
    }
    bhttp::async_write(link->transport, link->request,
                       [self = shared_from_this(), link](const ErrorCode&, std::size_t) {
                           // A server may answer and close before it has read everything: the
                           // answer, or the failure to read one, tells more than this error.
                           if (!link->closed) {
                               self->receive(link);
                           }
                       });
}

void Client::Impl::receive(const std::shared_ptr<Link>& link) {
    link->call->stage = "waiting for the answer";
    link->parser.emplace();
    link->parser->header_limit(kHeaderBytesMax);
    link->parser->body_limit(options.body_bytes_max);
    link->parser->skip(link->call->method == "HEAD");
    bhttp::async_read(link->transport, link->buffer, *link->parser,
                      [self = shared_from_this(), link](const ErrorCode& error, std::size_t) {
                          if (!link->closed) {
                              self->on_received(link, error);
                          }
                      });
}

void Client::Impl::on_received(const std::shared_ptr<Link>& link, const ErrorCode& error) {
    if (error) {
        return on_broken(link, error);
    }
    const unsigned status = link->parser->get().result_int();
    if (status >= 100 && status < 200 && status != 101) {
        return receive(link);  // Interim, as 100 Continue.
    }
    on_answer(link);
}

void Client::Impl::on_answer(const std::shared_ptr<Link>& link) {
    const bool keep = link->parser->keep_alive() && link->buffer.size() == 0;
    bhttp::response<bhttp::string_body> message = link->parser->release();
    const std::shared_ptr<Call> call = std::move(link->call);
    link->parser.reset();
    link->request = {};
    if (keep) {
        link->kept = true;
        idle.push_back(link);
    } else {
        drop(link);
    }
    Response response;
    response.status = static_cast<int>(message.result_int());
    response.content_type = std::string(message[bhttp::field::content_type]);
    response.headers = copy_headers(message);
    response.body = std::move(message.body());
    serve_waiting();
    finish(call, std::move(response));
}

void Client::Impl::on_broken(const std::shared_ptr<Link>& link, const ErrorCode& error) {
    const std::shared_ptr<Call> call = std::move(link->call);
    const bool some = link->parser && link->parser->got_some();
    const bool again = link->kept && !some && !call->retried && !is_error_of_http(error);
    const bool closed_unused = link->kept && !some && error == bhttp::error::end_of_stream;
    const std::string tls_problem = link->transport.tls() ? link->transport.tls()->why() : "";
    drop(link);
    if ((again || closed_unused) && !call->retried) {
        call->retried = true;
        return open(call);  // drop() has made room for it.
    }
    serve_waiting();
    finish(call,
           tls_problem.empty() ? broken(error, some) : problem(Errc::kUnavailable, tls_problem));
}

Error Client::Impl::broken(const ErrorCode& error, bool some) const {
    if (error == bhttp::error::body_limit) {
        return problem(Errc::kTooLarge,
                       "the answer is over " + std::to_string(options.body_bytes_max) + " bytes");
    }
    if (error == bhttp::error::header_limit) {
        return problem(Errc::kTooLarge, "the answer's header is over 8 KiB");
    }
    if (error == bhttp::error::buffer_overflow) {
        return problem(Errc::kTooLarge,
                       "the answer's trailer or a chunk's extension is over 64 KiB");
    }
    if (error == bhttp::error::end_of_stream || error == bhttp::error::partial_message ||
        error == asio::error::eof) {
        return problem(Errc::kUnavailable,
                       some ? "closed in the middle of its answer" : "closed without an answer");
    }
    if (is_error_of_http(error)) {
        return problem(Errc::kInvalid, "the answer is not HTTP: " + reason(error));
    }
    return problem(Errc::kUnavailable, reason(error));
}

void Client::Impl::on_deadline(const std::shared_ptr<Call>& call) {
    const auto self = shared_from_this();
    const auto used = std::find_if(links.begin(), links.end(),
                                   [&](const auto& link) { return link->call == call; });
    const std::string stage = call->stage;
    if (used != links.end()) {
        const std::shared_ptr<Link> link = *used;
        link->call.reset();
        drop(link);
    } else {
        std::erase(waiting, call);
    }
    serve_waiting();
    finish(call, problem(Errc::kTimeout, "no answer in time (" + stage + ")"));
}

void Client::Impl::finish(const std::shared_ptr<Call>& call, Result<Response> result) {
    if (ended || !call->done) {
        return;
    }
    if (call->timer) {
        call->timer->set(std::nullopt);
    }
    const Done done = std::exchange(call->done, nullptr);
    done(std::move(result));  // May destroy the client.
}

void Client::Impl::drop(const std::shared_ptr<Link>& link) {
    link->close();
    links.erase(link);
}

void Client::Impl::serve_waiting() {
    while (!waiting.empty() && (!idle.empty() || links.size() < options.connections_max)) {
        const std::shared_ptr<Call> call = std::move(waiting.front());
        waiting.pop_front();
        dispatch(call);
    }
}

void Client::Impl::end() {
    ended = true;
    const auto all = std::exchange(links, {});
    for (const auto& link : all) {
        if (link->call) {
            link->call->timer.reset();
            link->call.reset();
        }
        link->close();
    }
    for (const auto& call : waiting) {
        call->timer.reset();
    }
    waiting.clear();
    idle.clear();
}

Client::Client(Loop& loop, std::string base, ClientOptions options)
    : impl_(std::make_shared<Impl>(loop, base, std::move(options))) {}

Client::~Client() {
    impl_->end();
}

void Client::request(std::string method, std::string target, std::string body, Mono deadline,
                     Done done) {
    auto call = std::make_shared<Call>();
    call->method = std::move(method);
    call->target = std::move(target);
    call->body = std::move(body);
    call->done = std::move(done);
    impl_->submit(call, deadline);
}

}  // namespace sigmacast::http
