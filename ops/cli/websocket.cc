#include "ops/cli/websocket.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/json.hpp>
#include <cctype>
#include <charconv>
#include <deque>
#include <optional>
#include <utility>

#include "common/codec.h"
#include "common/transport.h"

namespace sigmacast {

/// Found by Beast when a WebSocket ends.
template <class Handler>
void async_teardown(boost::beast::role_type role, Transport& transport, Handler&& handler) {
    transport.close_notify();
    boost::beast::websocket::async_teardown(role, transport.next_layer(),
                                            std::forward<Handler>(handler));
}

}  // namespace sigmacast

namespace sigmacast::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr std::chrono::seconds kConnectMax{10};  // For each: connecting with TLS, the upgrade.
constexpr std::chrono::seconds kSilenceMax{20};  // Heartbeats come every 5 s.
constexpr std::size_t kMessageBytesMax = 16u << 20;
constexpr char kSubprotocol[] = "sigmacast.v1.json";

std::string reason(const ErrorCode& error) {
    if (error == beast::error::timeout) {
        return "no answer in time";
    }
    if (error == asio::error::eof || error == websocket::error::closed) {
        return "the connection was closed";
    }
    std::string text = error.message();
    if (!text.empty()) {
        text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
    }
    return text;
}

/// What an edge's refusal says for itself; empty where it was none of an edge's.
std::string refusal_of(const websocket::response_type& answer) {
    const auto parsed = parse_json(answer.body());
    if (!parsed || !parsed->is_object()) {
        return {};
    }
    const auto* error = parsed->get_object().if_contains("error");
    return error && error->is_string() ? std::string(error->get_string()) : std::string();
}

std::optional<Millis> retry_after_of(const websocket::response_type& answer) {
    const std::string_view text = answer[beast::http::field::retry_after];
    std::uint32_t seconds = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (text.empty() || ec != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return std::chrono::seconds(seconds);
}

}  // namespace

struct WebSocket::Impl : std::enable_shared_from_this<WebSocket::Impl> {
    Impl(Loop& loop, Endpoint where, std::string with, std::shared_ptr<tls::Client> trusting,
         Handlers handlers_in)
        : server(std::move(where)),
          token(std::move(with)),
          tls(std::move(trusting)),
          handlers(std::move(handlers_in)),
          resolver(loop.context()),
          stream(tcp::socket(loop.context())),
          limit(loop, [this] {
              const auto self = shared_from_this();
              fail("no answer in time");
          }) {}

    void start() {
        limit.set(BootClock::now() + kConnectMax);
        resolver.async_resolve(
            server.host, std::to_string(server.port),
            [self = shared_from_this()](const ErrorCode& error,
                                        const tcp::resolver::results_type& found) {
                if (error) {
                    return self->fail(self->server.host +
                                      " is not the name of a machine: " + reason(error));
                }
                self->connect(found);
            });
    }

    void connect(const tcp::resolver::results_type& found) {
        if (ended) {
            return;
        }
        asio::async_connect(
            stream.next_layer().next_layer(), found,
            [self = shared_from_this()](const ErrorCode& error, const tcp::endpoint&) {
                if (error) {
                    return self->fail(reason(error));
                }
                self->tls ? self->shake_hands() : self->handshake();
            });
    }

    void shake_hands() {
        if (ended) {
            return;
        }
        Transport& transport = stream.next_layer();
        transport.start_tls(tls->open(transport.next_layer().native_handle(), server.host));
        transport.async_handshake([self = shared_from_this()](const ErrorCode& error) {
            if (error) {
                const std::string& why = self->stream.next_layer().tls()->why();
                return self->fail(why.empty() ? reason(error) : why);
            }
            self->handshake();
        });
    }

    void handshake() {
        if (ended) {
            return;
        }
        limit.set(std::nullopt);  // From here on it is Beast's.
        websocket::stream_base::timeout limits{};
        limits.handshake_timeout = kConnectMax;
        limits.idle_timeout = kSilenceMax;
        limits.keep_alive_pings = true;
        stream.set_option(limits);
        stream.set_option(
            websocket::stream_base::decorator([this](websocket::request_type& request) {
                if (!token.empty()) {
                    request.set(beast::http::field::authorization, "Bearer " + token);
                }
                request.set(beast::http::field::user_agent, "sigmacast/" SIGMACAST_VERSION);
                request.set(beast::http::field::sec_websocket_protocol, kSubprotocol);
            }));
        stream.read_message_max(kMessageBytesMax);
        stream.auto_fragment(false);
        stream.async_handshake(
            answer, server.authority(), server.path,
            [self = shared_from_this()](const ErrorCode& error) { self->on_handshake(error); });
    }

    void on_handshake(const ErrorCode& error) {
        if (ended) {
            return;
        }
        if (error == websocket::error::upgrade_declined) {
            status = static_cast<int>(answer.result_int());
            retry_after = retry_after_of(answer);
            const std::string said = refusal_of(answer);
            return fail(
                (said.empty() ? "it answers, but not as a WebSocket: HTTP " : said + ": HTTP ") +
                std::to_string(status));
        }
        if (error) {
            return fail(reason(error));
        }
        if (answer[beast::http::field::sec_websocket_protocol] != kSubprotocol) {
            return fail("it does not speak " + std::string(kSubprotocol));
        }
        stream.text(true);
        open = true;
        handlers.on_open();
        read();
    }

    void read() {
        if (ended) {
            return;
        }
        stream.async_read(buffer, [self = shared_from_this()](const ErrorCode& error, std::size_t) {
            if (self->ended) {
                return;
            }
            if (error) {
                return self->fail(reason(error));
            }
            const auto bytes = self->buffer.cdata();
            self->handlers.on_text({static_cast<const char*>(bytes.data()), bytes.size()});
            self->buffer.consume(self->buffer.size());
            self->read();
        });
    }

    void write() {
        if (writing || queue.empty() || ended) {
            return;
        }
        writing = true;
        stream.async_write(asio::buffer(queue.front()),
                           [self = shared_from_this()](const ErrorCode& error, std::size_t) {
                               self->writing = false;
                               self->queue.pop_front();
                               if (!error) {  // A failed write shows in the read, too.
                                   self->write();
                               }
                           });
    }

    void fail(std::string why) {
        if (ended) {
            return;
        }
        Closed closed{static_cast<std::uint16_t>(stream.reason().code), status, std::move(why),
                      retry_after};
        if (closed.code != 0 && !stream.reason().reason.empty()) {
            closed.why = std::string(stream.reason().reason.c_str());
        }
        const auto told = std::exchange(handlers.on_closed, nullptr);
        drop();
        told(std::move(closed));
    }

    void drop() {
        ended = true;
        limit.set(std::nullopt);
        resolver.cancel();
        stream.next_layer().close();
    }

    void say_goodbye() {
        if (ended || !open) {
            return drop();
        }
        ended = true;
        stream.async_close(websocket::close_code::normal,
                           [self = shared_from_this()](const ErrorCode&) { self->drop(); });
    }

    Endpoint server;
    std::string token;
    std::shared_ptr<tls::Client> tls;  // Null: plain.
    int status = 0;
    std::optional<Millis> retry_after;
    Handlers handlers;
    tcp::resolver resolver;
    websocket::stream<Transport> stream;
    Timer limit;
    websocket::response_type answer;
    beast::flat_buffer buffer{kMessageBytesMax};
    std::deque<std::string> queue;
    bool open = false;
    bool writing = false;
    bool ended = false;
};

WebSocket::WebSocket(Loop& loop, const Endpoint& server, const std::string& token,
                     std::shared_ptr<tls::Client> tls, Handlers handlers)
    : impl_(std::make_shared<Impl>(loop, server, token, std::move(tls), std::move(handlers))) {
    impl_->start();
}

WebSocket::~WebSocket() {
    if (!impl_->ended) {
        impl_->drop();
    }
}

void WebSocket::send(std::string text) {
    impl_->queue.push_back(std::move(text));
    impl_->write();
}

void WebSocket::close() {
    impl_->say_goodbye();
}

}  // namespace sigmacast::cli
