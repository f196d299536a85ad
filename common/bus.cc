#include "common/bus.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <deque>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <zmq.hpp>

#include "common/bus_gate.h"
#include "common/log.h"
#include "common/transit.h"

namespace sigmacast::bus {
namespace {

constexpr std::size_t kIncomingMax = 4'096;            // Beyond it the sockets are not read.
constexpr std::size_t kIncomingBytesMax = 64u << 20;   // The same, for large messages.
constexpr std::size_t kBatchBytes = 1u << 20;          // Handed over in one task of the loop.
constexpr int kGatherRounds = 3;                       // Looks at the sockets before that.
constexpr std::size_t kOutgoingMax = 65'536;           // Beyond it send() drops.
constexpr std::size_t kOutgoingBytesMax = 256u << 20;  // The same, for large messages.
constexpr std::size_t kDrainMax = 256;                 // From one socket in one turn.
constexpr std::size_t kFramesMax = 200'016;  // Of one message: 100,000 records and what is around.
constexpr int kLingerMs = 200;
constexpr int kHandshakeMs = 10'000;  // Whoever connects and says nothing is let go.

zmq::socket_type zmq_type(SocketType type) {
    switch (type) {
        case SocketType::kPub:
            return zmq::socket_type::pub;
        case SocketType::kSub:
            return zmq::socket_type::sub;
        case SocketType::kXpub:
            return zmq::socket_type::xpub;
        case SocketType::kRouter:
            return zmq::socket_type::router;
        case SocketType::kDealer:
            return zmq::socket_type::dealer;
    }
    return zmq::socket_type::pub;
}

void configure(zmq::socket_t& socket, const SocketOptions& options) {
    socket.set(zmq::sockopt::linger, kLingerMs);
    socket.set(zmq::sockopt::sndhwm, options.high_water_mark);
    socket.set(zmq::sockopt::rcvhwm, options.high_water_mark);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(options.message_bytes_max));
    socket.set(zmq::sockopt::heartbeat_ivl, 500);
    socket.set(zmq::sockopt::heartbeat_timeout, 1'500);
    socket.set(zmq::sockopt::heartbeat_ttl, 2'000);
    socket.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
    socket.set(zmq::sockopt::reconnect_ivl, 10);
    socket.set(zmq::sockopt::reconnect_ivl_max, 200);
    socket.set(zmq::sockopt::tcp_keepalive, 1);
    socket.set(zmq::sockopt::tcp_keepalive_idle, 30);
    if (options.endpoint.find('[') != std::string::npos) {
        socket.set(zmq::sockopt::ipv6, 1);
    }
    if (options.type == SocketType::kXpub) {
        socket.set(zmq::sockopt::xpub_verbose, 1);
    }
    if (options.type == SocketType::kSub) {
        for (const std::string& prefix : options.subscribe) {
            socket.set(zmq::sockopt::subscribe, prefix);
        }
    }
}

/// `domain` is what the gate tells this socket's handshakes by.
void secure(zmq::socket_t& socket, const Curve& curve, bool bind, std::size_t domain) {
    if (curve.secret_key.empty()) {
        return;
    }
    socket.set(zmq::sockopt::curve_secretkey, curve.secret_key);
    if (bind) {
        socket.set(zmq::sockopt::curve_server, true);
        socket.set(zmq::sockopt::zap_domain, std::to_string(domain));
    } else {
        socket.set(zmq::sockopt::curve_publickey, curve.public_key);
        socket.set(zmq::sockopt::curve_serverkey, curve.broker_key);
    }
}

/// What a broker on this host binds to is no address to connect to.
std::string to_connect(const std::string& endpoint) {
    for (const auto& [any, loopback] :
         {std::pair<std::string, std::string>{"tcp://0.0.0.0:", "tcp://127.0.0.1:"},
          {"tcp://[::]:", "tcp://[::1]:"}}) {
        if (endpoint.starts_with(any)) {
            return loopback + endpoint.substr(any.size());
        }
    }
    return endpoint;
}

/// The file of an ipc endpoint; empty for other transports and for abstract names.
std::string ipc_path(const std::string& endpoint) {
    constexpr std::string_view kIpc = "ipc://";
    if (endpoint.rfind(kIpc, 0) != 0 || endpoint.size() == kIpc.size()) {
        return {};
    }
    const char first = endpoint[kIpc.size()];
    return first == '@' || first == '*' ? std::string() : endpoint.substr(kIpc.size());
}

/// ZeroMQ removes an existing socket file before it binds, and so would take it from a running
/// program.
bool somebody_listens(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return false;
    }
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return false;
    }
    const bool taken =
        ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
        errno == EAGAIN;
    ::close(fd);
    return taken;
}

Result<> bind(zmq::socket_t& socket, const std::string& endpoint) {
    const std::string path = ipc_path(endpoint);
    if (!path.empty() && somebody_listens(path)) {
        return Error{Errc::kUnavailable, "cannot bind " + endpoint + ": Address already in use"};
    }
    try {
        socket.bind(endpoint);
    } catch (const zmq::error_t& error) {
        return Error{Errc::kUnavailable, "cannot bind " + endpoint + ": " + error.what()};
    }
    if (!path.empty() && ::chmod(path.c_str(), 0600) != 0) {
        return Error{Errc::kUnavailable,
                     "cannot set the permissions of " + path + ": " + std::strerror(errno)};
    }
    return {};
}

Result<> connect(zmq::socket_t& socket, const std::string& endpoint) {
    try {
        socket.connect(to_connect(endpoint));
    } catch (const zmq::error_t& error) {
        return Error{Errc::kUnavailable, "cannot connect to " + endpoint + ": " + error.what()};
    }
    return {};
}

std::size_t weight(const Frames& frames) {
    std::size_t bytes = 0;
    for (const std::string& frame : frames) {
        bytes += frame.size();
    }
    return bytes;
}

/// What the bus thread and the loop share; it outlives the node in tasks that were posted before
/// its end.
struct Inbox {
    explicit Inbox(std::function<void(std::vector<Incoming>)> handler)
        : on_batch(std::move(handler)) {}

    const std::function<void(std::vector<Incoming>)> on_batch;
    std::mutex mutex;
    std::vector<Incoming> waiting;  // Guarded, as the next two.
    std::size_t bytes = 0;
    bool closed = false;

    /// The first messages, until they are kBatchBytes or more. Called with the mutex held.
    std::vector<Incoming> take() {
        std::size_t sum = 0;
        auto end = waiting.begin();
        while (end != waiting.end() && sum < kBatchBytes) {
            sum += weight(end->frames);
            ++end;
        }
        std::vector<Incoming> taken(std::make_move_iterator(waiting.begin()),
                                    std::make_move_iterator(end));
        waiting.erase(waiting.begin(), end);
        bytes = waiting.empty() ? 0 : bytes - sum;
        return taken;
    }
};

/// A counting event that ZeroMQ can poll.
class Wake {
 public:
    Wake() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
    ~Wake() { ::close(fd_); }
    Wake(const Wake&) = delete;
    Wake& operator=(const Wake&) = delete;

    void signal() const {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);
    }
    void clear() const {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto read = ::read(fd_, &count, sizeof count);
    }
    [[nodiscard]] int fd() const { return fd_; }

 private:
    int fd_;
};

}  // namespace

struct Node::Impl {
    Impl(Loop& the_loop, std::vector<SocketOptions> sockets_wanted,
         std::function<void(std::vector<Incoming>)> on_batch, Curve curve_wanted)
        : loop(the_loop),
          options(std::move(sockets_wanted)),
          curve(std::move(curve_wanted)),
          inbox(std::make_shared<Inbox>(std::move(on_batch))),
          gate(curve.clients, doors(options)) {
        for (const SocketOptions& socket : options) {
            watches.emplace_back(Watch::Options{socket.endpoint, socket.bind, curve.public_key});
        }
    }

    struct Outgoing {
        std::size_t socket;
        Frames frames;
        Mono at;
    };

    [[nodiscard]] bool judges_keys() const {
        return !curve.secret_key.empty() && std::any_of(options.begin(), options.end(),
                                                        [](auto& socket) { return socket.bind; });
    }
    static std::vector<Gate::Door> doors(const std::vector<SocketOptions>& options);
    Result<> open();
    Result<> open_socket(const SocketOptions& wanted);
    void close();
    void run();
    [[nodiscard]] std::chrono::milliseconds until_connect() const;
    void look_after(const std::vector<zmq::pollitem_t>& items);
    void connect_anew(std::size_t index);
    bool poll(std::vector<zmq::pollitem_t>& items, bool reading);
    void gather(const std::vector<zmq::pollitem_t>& items, std::vector<Incoming>& into,
                std::size_t& bytes);
    void drain(std::size_t index, std::vector<Incoming>& into, std::size_t& bytes);
    bool receive(std::size_t index, Incoming& into);
    bool hand_over(std::vector<Incoming>& batch, std::size_t bytes);
    void send_waiting();
    void transmit(const Outgoing& message);

    Loop& loop;
    const std::vector<SocketOptions> options;
    const Curve curve;
    const std::shared_ptr<Inbox> inbox;
    std::shared_ptr<Wake> wake = std::make_shared<Wake>();
    std::atomic<std::uint64_t> dropped = 0;
    std::atomic<bool> stopping = false;

    std::mutex outgoing_mutex;
    std::deque<Outgoing> outgoing;  // Guarded, as the next two.
    std::size_t outgoing_bytes = 0;
    bool accepting = false;

    // Made by start(), then the bus thread's alone.
    zmq::context_t context{1};
    std::vector<zmq::socket_t> sockets;
    std::deque<Watch> watches;  // One a socket; made by the constructor, for the counts.
    Gate gate;                  // Open where judges_keys().
    std::size_t room = kIncomingMax;
    Transit transit{clock_id()};
    std::thread thread;
};

std::vector<Gate::Door> Node::Impl::doors(const std::vector<SocketOptions>& options) {
    std::vector<Gate::Door> doors;
    for (const SocketOptions& socket : options) {
        doors.push_back({socket.rights, socket.endpoint});
    }
    return doors;
}

Result<> Node::Impl::open() {
    // Where nobody judges the keys ZeroMQ lets everyone in: so the gate first.
    if (judges_keys()) {
        if (Result<> opened = gate.open(context.handle()); !opened) {
            return opened;
        }
    }
    for (const SocketOptions& wanted : options) {
        if (Result<> opened = open_socket(wanted); !opened) {
            return opened;
        }
    }
    return {};
}

Result<> Node::Impl::open_socket(const SocketOptions& wanted) {
    const std::size_t index = sockets.size();
    try {
        sockets.emplace_back(context, zmq_type(wanted.type));
        configure(sockets.back(), wanted);
        secure(sockets.back(), curve, wanted.bind, index);
    } catch (const zmq::error_t& error) {
        return Error{Errc::kUnavailable,
                     "cannot make a socket for " + wanted.endpoint + ": " + error.what()};
    }
    if (Result<> opened = watches[index].open(context.handle(), sockets.back().handle(), index);
        !opened) {
        return opened;
    }
    return wanted.bind ? bind(sockets.back(), wanted.endpoint)
                       : connect(sockets.back(), wanted.endpoint);
}

/// The watches first: a socket that closes waits for room in what is watched.
void Node::Impl::close() {
    for (Watch& watch : watches) {
        watch.close();
    }
    sockets.clear();  // What is left has kLingerMs to leave; the context waits for it.
    gate.close();
}

void Node::Impl::run() {
    // Sockets, their watches, the gate, the wake.
    std::vector<zmq::pollitem_t> items;
    for (zmq::socket_t& socket : sockets) {
        items.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
    }
    for (const Watch& watch : watches) {
        items.push_back({watch.socket(), 0, ZMQ_POLLIN, 0});
    }
    items.push_back({nullptr, wake->fd(), ZMQ_POLLIN, 0});
    if (gate.socket() != nullptr) {
        items.push_back({gate.socket(), 0, ZMQ_POLLIN, 0});
    }

    std::vector<Incoming> batch;
    bool reading = true;
    while (!stopping) {
        if (!poll(items, reading)) {
            continue;
        }
        wake->clear();
        look_after(items);
        send_waiting();
        std::size_t bytes = 0;
        if (reading) {
            gather(items, batch, bytes);
        }
        reading = hand_over(batch, bytes);
    }
    send_waiting();
    close();
}

bool Node::Impl::poll(std::vector<zmq::pollitem_t>& items, bool reading) {
    for (std::size_t i = 0; i < sockets.size(); ++i) {
        items[i].events = reading ? ZMQ_POLLIN : static_cast<short>(0);
    }
    try {
        zmq::poll(items, until_connect());
        return true;
    } catch (const zmq::error_t& error) {
        if (error.num() == EINTR) {
            return false;
        }
        throw;
    }
}

/// Handshakes: in their own place, whether or not messages are read at the moment.
void Node::Impl::look_after(const std::vector<zmq::pollitem_t>& items) {
    const Mono now = BootClock::now();
    if (gate.socket() != nullptr && (items.back().revents & ZMQ_POLLIN) != 0) {
        gate.answer(now);
    }
    for (std::size_t i = 0; i < watches.size(); ++i) {
        if ((items[sockets.size() + i].revents & ZMQ_POLLIN) != 0) {
            watches[i].take(now);
        }
        const auto at = watches[i].connect_at();
        if (at && *at <= now) {
            connect_anew(i);
        }
    }
}

std::chrono::milliseconds Node::Impl::until_connect() const {
    std::optional<Mono> next;
    for (const Watch& watch : watches) {
        const auto at = watch.connect_at();
        next = at && (!next || *at < *next) ? at : next;
    }
    if (!next) {
        return std::chrono::milliseconds(-1);
    }
    const Mono now = BootClock::now();
    return *next <= now ? std::chrono::milliseconds(0) : elapsed(now, *next) + Millis(1);
}

/// ZeroMQ keeps the endpoint of a socket that was turned away, and does nothing more for it.
void Node::Impl::connect_anew(std::size_t index) {
    watches[index].connected_anew();
    const std::string endpoint = to_connect(options[index].endpoint);
    zmq_disconnect(sockets[index].handle(), endpoint.c_str());  // Gone already is as good.
    if (const Result<> connected = connect(sockets[index], endpoint); !connected) {
        log_error("the bus cannot connect anew", {{"why", connected.error().message}});
    }
}

/// ZeroMQ's own thread wakes this one with the first message of a burst, and has the others yet to
/// take apart: where both share a core, it gets to do so before the loop begins with the first.
void Node::Impl::gather(const std::vector<zmq::pollitem_t>& items, std::vector<Incoming>& into,
                        std::size_t& bytes) {
    for (int round = 0; round < kGatherRounds; ++round) {
        const std::size_t before = into.size();
        for (std::size_t i = 0; i < sockets.size(); ++i) {
            if ((items[i].revents & ZMQ_POLLIN) != 0) {
                drain(i, into, bytes);
            }
        }
        if (into.size() == before) {
            return;
        }
        std::this_thread::yield();
    }
}

void Node::Impl::drain(std::size_t index, std::vector<Incoming>& into, std::size_t& bytes) {
    for (std::size_t i = 0; i < kDrainMax; ++i) {
        if (into.size() >= room || bytes >= kIncomingBytesMax) {
            return;
        }
        Incoming incoming{.socket = index};
        if (!receive(index, incoming)) {
            return;
        }
        bytes += weight(incoming.frames);
        if (!incoming.frames.empty()) {
            into.push_back(std::move(incoming));
        }
    }
}

/// False when nothing waits. A message over a limit comes out empty.
bool Node::Impl::receive(std::size_t index, Incoming& into) {
    zmq::socket_t& socket = sockets[index];
    Frames& frames = into.frames;
    zmq::message_t part;
    std::size_t count = 0;
    std::size_t bytes = 0;
    do {
        if (!socket.recv(part, zmq::recv_flags::dontwait)) {
            return false;
        }
        bytes += part.size();
        if (++count <= kFramesMax && bytes <= kIncomingBytesMax) {
            frames.emplace_back(static_cast<const char*>(part.data()), part.size());
        }
    } while (part.more());
    if (options[index].bind && !curve.secret_key.empty()) {
        const char* client = zmq_msg_gets(part.handle(), "User-Id");
        into.client = client == nullptr ? "" : client;
    }
    const Mono now = BootClock::now();
    into.sent = now;
    if (count > kFramesMax || bytes > kIncomingBytesMax) {
        frames.clear();
        ++dropped;
        log_warn("bus message over a limit not taken",
                 {{"endpoint", options[index].endpoint}, {"frames", count}, {"bytes", bytes}});
    } else if (const auto stamp = Stamp::read(frames.back())) {
        frames.pop_back();
        into.sent = transit.sent(*stamp, now);
    }
    return true;
}

/// Hands one batch over in a task of the loop, and the rest in another, so that what else the loop
/// does comes in between.
void post_batch(Loop& loop, const std::shared_ptr<Inbox>& inbox,
                const std::shared_ptr<Wake>& wake) {
    loop.post([&loop, inbox, wake] {
        std::vector<Incoming> taken;
        bool was_full = false;
        bool more = false;
        {
            const std::lock_guard lock(inbox->mutex);
            if (inbox->closed) {
                return;
            }
            was_full = inbox->waiting.size() >= kIncomingMax || inbox->bytes >= kIncomingBytesMax;
            taken = inbox->take();
            more = !inbox->waiting.empty();
        }
        if (was_full) {
            wake->signal();  // The bus had stopped reading.
        }
        if (more) {
            post_batch(loop, inbox, wake);
        }
        inbox->on_batch(std::move(taken));
    });
}

/// Adds to what waits for the loop, and posts one task where nothing waited. Returns whether there
/// is room for more.
bool Node::Impl::hand_over(std::vector<Incoming>& batch, std::size_t bytes) {
    bool was_empty = false;
    bool more = false;
    {
        const std::lock_guard lock(inbox->mutex);
        was_empty = inbox->waiting.empty();
        inbox->waiting.insert(inbox->waiting.end(), std::make_move_iterator(batch.begin()),
                              std::make_move_iterator(batch.end()));
        inbox->bytes += bytes;
        room = kIncomingMax - inbox->waiting.size();
        more = room > 0 && inbox->bytes < kIncomingBytesMax;
    }
    if (was_empty && !batch.empty()) {
        post_batch(loop, inbox, wake);
    }
    batch.clear();
    return more;
}

void Node::Impl::send_waiting() {
    std::deque<Outgoing> taken;
    {
        const std::lock_guard lock(outgoing_mutex);
        taken.swap(outgoing);
        outgoing_bytes = 0;
    }
    for (const Outgoing& message : taken) {
        transmit(message);
    }
}

void Node::Impl::transmit(const Outgoing& message) {
    zmq::socket_t& socket = sockets[message.socket];
    try {
        for (const std::string& frame : message.frames) {
            const auto flags = zmq::send_flags::sndmore | zmq::send_flags::dontwait;
            if (!socket.send(zmq::buffer(frame), flags)) {
                ++dropped;  // At the high-water mark; only the first frame can meet it.
                return;
            }
        }
        const std::string stamp = Stamp{clock_id(), message.at}.bytes();
        socket.send(zmq::buffer(stamp), zmq::send_flags::dontwait);
    } catch (const zmq::error_t& error) {
        ++dropped;
        log_warn("bus message not sent", {{"endpoint", options[message.socket].endpoint},
                                          {"why", std::string(error.what())}});
    }
}

Node::Node(Loop& loop, std::vector<SocketOptions> sockets,
           std::function<void(std::vector<Incoming>)> on_batch, Curve curve)
    : impl_(std::make_unique<Impl>(loop, std::move(sockets), std::move(on_batch),
                                   std::move(curve))) {}

Node::~Node() {
    stop();
}

Result<> Node::start() {
    Result<> opened = impl_->open();
    if (!opened) {
        impl_->close();
        return opened;
    }
    {
        const std::lock_guard lock(impl_->outgoing_mutex);
        impl_->accepting = true;
    }
    // Signals belong to the loop's thread.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Result<> started;
    try {
        impl_->thread = std::thread([impl = impl_.get()] {
            try {
                impl->run();
            } catch (const std::exception& problem) {
                log_error("the bus thread failed; ending", {{"what", std::string(problem.what())}});
                std::terminate();  // A process without its bus is of no use: the supervisor
                                   // restarts it.
            }
        });
    } catch (const std::system_error& problem) {
        impl_->close();
        started =
            Error{Errc::kUnavailable, "no thread for the bus: " + std::string(problem.what()) +
                                          " (ulimit -u, or pids.max of its group)"};
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
}

void Node::stop() {
    {
        const std::lock_guard lock(impl_->inbox->mutex);
        impl_->inbox->closed = true;
    }
    {
        const std::lock_guard lock(impl_->outgoing_mutex);
        impl_->accepting = false;
    }
    impl_->stopping = true;
    impl_->wake->signal();
    if (impl_->thread.joinable()) {
        impl_->thread.join();
    }
    impl_->context.close();
}

bool Node::send(std::size_t socket, Frames frames, Mono encoded) {
    const std::size_t bytes = weight(frames);
    bool was_empty = false;
    {
        const std::lock_guard lock(impl_->outgoing_mutex);
        if (!impl_->accepting || socket >= impl_->options.size() || frames.empty() ||
            impl_->outgoing.size() >= kOutgoingMax ||
            impl_->outgoing_bytes + bytes > kOutgoingBytesMax) {
            ++impl_->dropped;
            return false;
        }
        was_empty = impl_->outgoing.empty();
        impl_->outgoing.push_back({socket, std::move(frames), encoded});
        impl_->outgoing_bytes += bytes;
    }
    if (was_empty) {
        impl_->wake->signal();
    }
    return true;
}

std::uint64_t Node::dropped() const {
    return impl_->dropped;
}

std::uint64_t Node::denied() const {
    return impl_->gate.denied();
}

std::uint64_t Node::handshakes_failed() const {
    std::uint64_t failed = 0;
    for (const Watch& watch : impl_->watches) {
        failed += watch.failed();
    }
    return failed;
}

}  // namespace sigmacast::bus
