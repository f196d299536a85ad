#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <utility>

#include "edge/wire_impl.h"

namespace sigmacast::edge {
namespace {

namespace asio = boost::asio;
using error_code = boost::system::error_code;

/// That may wait in a socket for the network, beside what is on its way.
constexpr int kUnsentBytesMax = 64 << 10;

/// Gives the socket what waits, as much as it takes. No error: all of it has left; would_block: the
/// socket takes no more for now.
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

}  // namespace

Client::Client(Wire::Impl& wire, http::Upgrade& upgrade, const Grant* grant)
    : wire_(wire),
      transport_(std::move(upgrade.transport)),
      address_(wire.hub.occupancy().addresses.take(http::address_key(upgrade.request.peer))),
      user_(grant ? wire.hub.seat_for(*grant) : Tally::Seat{}) {
    // The kernel would take megabytes for who does not read: values that no newer one can replace.
    ::setsockopt(transport_.next_layer().native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT,
                 &kUnsentBytesMax, sizeof(kUnsentBytesMax));
}

void Client::offer(SendBatch& batch, Now now) {
    if (session_ && !done_ && !failed_ && !waiting_ && !transport_.tls()) {
        fill(now);
        batch.add(transport_.next_layer().native_handle(), outbox_, wire_.counters);
    }
}

void Client::sweep(Now now) {
    if (close_by_ && *close_by_ <= now.mono) {
        abort();
        return;
    }
    if (!session_ || session_->closing()) {
        return;
    }
    check(now);
    if (session_->closing()) {
        close_when_sent(now);
    } else if (uptake_.stalled(outbox_, now.mono) > wire_.options.write_timeout) {
        wire_.hub.drop_slow(*session_, now);
        close_when_sent(now);
    }
}

void Client::abort() {
    if (!failed_) {
        failed_ = true;
        error_code ignored;
        transport_.next_layer().shutdown(Transport::Socket::shutdown_both, ignored);
        asio::post(transport_.get_executor(), [self = shared_from_this()] { self->finish(); });
    }
}

void Client::flush() {
    if (!failed_ && !waiting_) {
        if (const error_code ec = send_waiting(outbox_, transport_, wire_.counters)) {
            ec == asio::error::would_block ? wait_for_room() : abort();
        }
    }
    on_sent();
}

void Client::wait_for_room() {
    waiting_ = true;
    transport_.next_layer().async_wait(Transport::Socket::wait_write,
                                       [self = shared_from_this()](error_code ec) {
                                           self->waiting_ = false;
                                           if (self->done_) {
                                               return;
                                           }
                                           if (ec) {
                                               self->abort();
                                               return;
                                           }
                                           self->flush();
                                           self->on_room();
                                       });
}

void Client::limit_closing(Now now) {
    close_by_ = std::min(close_by_.value_or(Mono::max()), now.mono + wire_.options.close_timeout);
}

void Client::finish() {
    if (done_) {
        return;
    }
    done_ = failed_ = true;
    transport_.close();
    on_finish();
    wire_.remove(*this, std::exchange(session_, nullptr));
}

}  // namespace sigmacast::edge
