// A connection's bytes, plain or through TLS, as one stream type for Beast and Asio: whoever has
// one need not care which it is. Includes Asio: for http, edge/wire and the command line's
// WebSocket alone.
//
//     Transport plain(std::move(socket));
//     Transport secure(std::move(socket), std::move(session));  // tls.h; then async_handshake()
//
// At most one read and one write at a time, on the loop; its owner keeps it where it is until they
// have completed. Plain operations go to the socket as they are.
#pragma once

#include <sys/socket.h>

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/bind_handler.hpp>
#include <cerrno>
#include <memory>
#include <utility>

#include "common/tls.h"

namespace sigmacast {

class Transport {
 public:
    using Socket = boost::asio::ip::tcp::socket;
    using executor_type = Socket::executor_type;
    using next_layer_type = Socket;
    using ErrorCode = boost::system::error_code;

    explicit Transport(Socket socket, std::unique_ptr<tls::Session> session = nullptr)
        : socket_(std::move(socket)), tls_(std::move(session)) {}

    executor_type get_executor() noexcept { return socket_.get_executor(); }
    Socket& next_layer() { return socket_; }
    const Socket& next_layer() const { return socket_; }
    /// Null: plain.
    [[nodiscard]] const tls::Session* tls() const { return tls_.get(); }
    void start_tls(std::unique_ptr<tls::Session> session) { tls_ = std::move(session); }
    void stop_tls() { tls_.reset(); }

    /// Calls done(ErrorCode), never at once.
    template <class Done>
    void async_handshake(Done done) {
        auto last = [done = std::move(done)](ErrorCode error, std::size_t) mutable { done(error); };
        start([this] { return tls_->handshake(); }, std::move(last));
    }

    template <class Buffers, class Handler>
    auto async_read_some(const Buffers& buffers, Handler&& handler) {
        return boost::asio::async_initiate<Handler, void(ErrorCode, std::size_t)>(
            [this](auto token, const Buffers& into) {
                if (!tls_) {
                    socket_.async_read_some(into, std::move(token));
                    return;
                }
                boost::asio::mutable_buffer first;
                for (auto it = boost::asio::buffer_sequence_begin(into);
                     first.size() == 0 && it != boost::asio::buffer_sequence_end(into); ++it) {
                    first = *it;
                }
                start([this, first] { return tls_->read(first.data(), first.size()); },
                      std::move(token));
            },
            handler, buffers);
    }

    template <class Buffers, class Handler>
    auto async_write_some(const Buffers& buffers, Handler&& handler) {
        return boost::asio::async_initiate<Handler, void(ErrorCode, std::size_t)>(
            [this](auto token, const Buffers& from) {
                if (!tls_) {
                    socket_.async_write_some(from, std::move(token));
                    return;
                }
                start(
                    [this, from] {
                        iovec parts[kPartsMax];
                        std::size_t used = 0;
                        for (auto it = boost::asio::buffer_sequence_begin(from);
                             used < kPartsMax && it != boost::asio::buffer_sequence_end(from);
                             ++it) {
                            const boost::asio::const_buffer part = *it;
                            parts[used++] = {const_cast<void*>(part.data()), part.size()};
                        }
                        return tls_->write(parts, used);
                    },
                    std::move(token));
            },
            handler, buffers);
    }

    /// As sendmsg(2) without blocking. Through TLS it takes one record at most, and where it says
    /// EAGAIN the same bytes have to come first when it is called again.
    ssize_t send(const msghdr& message) {
        if (!tls_) {
            return ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        if (!socket_.is_open()) {  // Its descriptor may be another's by now.
            errno = EBADF;
            return -1;
        }
        const auto outcome = tls_->write(message.msg_iov, message.msg_iovlen);
        if (outcome.bytes > 0) {
            return static_cast<ssize_t>(outcome.bytes);
        }
        errno = outcome.wants == tls::Session::Wants::kWrite ? EAGAIN : EPIPE;
        return -1;
    }

    /// As recv(2) without blocking; 0 is the end. Where it says EAGAIN, async_wait_input() tells
    /// when to try again. What came through TLS may be followed by more that the socket knows
    /// nothing of: to be called until it says so.
    ssize_t receive(void* into, std::size_t size) {
        if (!tls_) {
            return ::recv(socket_.native_handle(), into, size, MSG_DONTWAIT);
        }
        if (!socket_.is_open()) {
            errno = EBADF;
            return -1;
        }
        const auto outcome = tls_->read(into, size);
        if (outcome.bytes > 0) {
            return static_cast<ssize_t>(outcome.bytes);
        }
        if (outcome.error == boost::asio::error::eof) {
            return 0;
        }
        input_wants_write_ = outcome.wants == tls::Session::Wants::kWrite;
        errno = outcome.wants == tls::Session::Wants::kNothing ? EPIPE : EAGAIN;
        return -1;
    }
    /// Calls done(ErrorCode), never at once.
    template <class Done>
    void async_wait_input(Done done) {
        socket_.async_wait(input_wants_write_ ? Socket::wait_write : Socket::wait_read,
                           std::move(done));
    }

    /// Nothing will follow: tells the peer, and with shutdown_send() the kernel, too.
    void close_notify() {
        if (tls_ && socket_.is_open()) {
            tls_->close_notify();
        }
    }
    void shutdown_send() {
        close_notify();
        ErrorCode ignored;
        socket_.shutdown(Socket::shutdown_send, ignored);
    }
    void close() {
        ErrorCode ignored;
        socket_.close(ignored);
    }

 private:
    static constexpr std::size_t kPartsMax = 16;  // Of a write; more follow with the next.

    /// Tries until the attempt has an end, waiting for the socket in between.
    template <class Attempt, class Token>
    struct Operation {
        using executor_type = boost::asio::associated_executor_t<Token, Transport::executor_type>;

        executor_type get_executor() const noexcept {
            return boost::asio::get_associated_executor(token, transport->get_executor());
        }

        void operator()(ErrorCode error = {}) {
            tls::Session::Outcome outcome{.error = error};
            if (!error && !transport->socket_.is_open()) {
                outcome.error = boost::asio::error::operation_aborted;
            } else if (!error) {
                outcome = attempt();
            }
            if (outcome.wants != tls::Session::Wants::kNothing) {
                first = false;
                Socket& socket = transport->socket_;
                socket.async_wait(outcome.wants == tls::Session::Wants::kRead ? Socket::wait_read
                                                                              : Socket::wait_write,
                                  std::move(*this));
            } else if (first) {  // Never from within the call that began it.
                const executor_type executor = get_executor();
                boost::asio::post(executor, boost::beast::bind_front_handler(
                                                std::move(token), outcome.error, outcome.bytes));
            } else {
                token(outcome.error, outcome.bytes);
            }
        }

        Transport* transport;
        Attempt attempt;
        Token token;
        bool first = true;
    };

    template <class Attempt, class Token>
    void start(Attempt attempt, Token token) {
        Operation<Attempt, Token>{this, std::move(attempt), std::move(token)}();
    }

    Socket socket_;
    std::unique_ptr<tls::Session> tls_;
    bool input_wants_write_ = false;  // TLS has to send something before it can go on reading.
};

}  // namespace sigmacast
