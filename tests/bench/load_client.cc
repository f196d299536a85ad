// Many WebSocket clients in one process, to load an edge: sigmacast-bench-load --port P --clients N
// --topic T.
//
// Connects all, subscribes each (sigmacast.v1.json), prints "ready", and waits for a line on
// standard input. From then on it counts the messages of the topic; it ends after --seconds, or
// when each client has --expect of them. Prints one JSON object: deliveries, the time they took,
// holes in `seq`, and the latency from the member `t_ns` of the data (the monotonic clock of the
// same machine) to the moment that the frame was read.
//
// One thread, epoll, raw sockets, as little work a frame as can be: it shares the machine with what
// it measures. It is no test of the protocol; tests/integration is.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::size_t kReadBytes = 256u << 10;
constexpr std::size_t kFrameBytesMax = 16u << 20;
constexpr std::size_t kLatenciesMax = 20'000'000;  // Later ones are counted, not kept.
constexpr int kConnectingMax = 128;                // Unanswered handshakes at one time.

struct Options {
    std::uint16_t port = 12080;
    std::size_t clients = 1000;
    std::string topic = "bench";
    double seconds = 10;
    std::uint64_t expect = 0;  // 0: until the time is over.
};

std::int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "sigmacast-bench-load: %s\n", what.c_str());
    std::exit(1);
}

std::uint64_t number_after(std::string_view text, std::string_view name) {
    const std::size_t at = text.find(name);
    std::uint64_t number = 0;
    if (at != std::string_view::npos) {
        std::from_chars(text.data() + at + name.size(), text.data() + text.size(), number);
    }
    return number;
}

struct Client {
    int fd = -1;
    bool upgraded = false;
    bool subscribed = false;
    std::string pending;  // What has come of an unfinished frame or handshake.
    std::uint64_t last_seq = 0;
    std::uint64_t received = 0;
};

struct Result {
    std::uint64_t deliveries = 0;
    std::uint64_t bytes = 0;
    std::uint64_t holes = 0;
    std::uint64_t closed = 0;
    std::int64_t first_ns = 0;
    std::int64_t last_ns = 0;
    std::vector<std::uint32_t> latencies_us;
};

class Load {
 public:
    explicit Load(Options options)
        : options_(std::move(options)),
          type_("{\"type\":\"" + options_.topic + "\""),
          epoll_(epoll_create1(EPOLL_CLOEXEC)),
          clients_(options_.clients) {
        if (epoll_ < 0) {
            die(std::string("epoll_create1: ") + std::strerror(errno));
        }
        result_.latencies_us.reserve(1u << 20);
    }

    void run() {
        const std::int64_t began = now_ns();
        connect_all();
        const double connect_seconds = static_cast<double>(now_ns() - began) / 1e9;
        std::printf("ready\n");
        std::fflush(stdout);
        wait_for_start();
        measure();
        print(connect_seconds);
    }

 private:
    void connect_all() {
        std::size_t next = 0;
        while (subscribed_ < clients_.size()) {
            while (next < clients_.size() &&
                   next - subscribed_ < static_cast<std::size_t>(kConnectingMax)) {
                open(next++);
            }
            poll(1000);
            if (result_.closed > 0) {
                die("the edge closed a connection while clients connected");
            }
        }
    }

    void open(std::size_t index) {
        Client& client = clients_[index];
        client.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(options_.port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (client.fd < 0 ||
            connect(client.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            die("client " + std::to_string(index) + " cannot connect to port " +
                std::to_string(options_.port) + ": " + std::strerror(errno));
        }
        const int on = 1;
        setsockopt(client.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        send_text(
            client,
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: sigmacast.v1.json\r\n\r\n");
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = index;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, client.fd, &event);
    }

    static void send_text(const Client& client, std::string_view bytes) {
        if (send(client.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) !=
            static_cast<ssize_t>(bytes.size())) {
            die(std::string("send: ") + std::strerror(errno));
        }
    }

    /// A masked frame; a mask of zeros is as good as any here (RFC 6455 5.3 wants it unpredictable
    /// for browsers).
    static void send_frame(const Client& client, unsigned char opcode, std::string_view payload) {
        std::string out;
        out += static_cast<char>(0x80u | opcode);
        out += static_cast<char>(0x80u | payload.size());
        out.append(4, '\0');
        out += payload;
        send_text(client, out);
    }

    void wait_for_start() {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = kStdin;
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) {
            die("standard input has to be a pipe or a terminal");
        }
        while (!started_) {
            poll(1000);
        }
    }

    void measure() {
        const std::int64_t end = now_ns() + static_cast<std::int64_t>(options_.seconds * 1e9);
        while (now_ns() < end && (options_.expect == 0 || complete_ < clients_.size())) {
            poll(50);
        }
    }

    void poll(int timeout_ms) {
        std::array<epoll_event, 256> events{};
        const int count =
            epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), timeout_ms);
        for (int i = 0; i < count; ++i) {
            const std::uint64_t index = events[static_cast<std::size_t>(i)].data.u64;
            if (index == kStdin) {
                started_ = true;
                epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr);
            } else {
                read(clients_[index]);
            }
        }
    }

    void read(Client& client) {
        const ssize_t got = recv(client.fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
        if (got <= 0) {
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
                return;
            }
            close(client.fd);  // Which takes it out of the epoll set.
            ++result_.closed;
            return;
        }
        std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
        if (client.pending.empty()) {
            client.pending = take(client, bytes, now_ns());
        } else {
            client.pending += bytes;
            client.pending = take(client, client.pending, now_ns());
        }
    }

    /// Consumes whole frames; returns what is left.
    std::string take(Client& client, std::string_view bytes, std::int64_t at) {
        if (!client.upgraded) {
            const std::size_t end = bytes.find("\r\n\r\n");
            if (end == std::string_view::npos) {
                return std::string(bytes);
            }
            if (bytes.find(" 101 ") > 16) {
                die("the edge refused: " + std::string(bytes.substr(0, end)));
            }
            client.upgraded = true;
            bytes.remove_prefix(end + 4);
            send_frame(client, 1,
                       "{\"type\":\"subscribe\",\"id\":1,\"data\":{\"types\":[\"" + options_.topic +
                           "\"]}}");
        }
        while (bytes.size() >= 2) {
            const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
            std::size_t head = 2;
            std::size_t size = byte(1) & 0x7fu;
            if (size >= 126) {
                const std::size_t digits = size == 126 ? 2 : 8;
                if (bytes.size() < 2 + digits) {
                    break;
                }
                size = 0;
                for (std::size_t i = 0; i < digits; ++i) {
                    size = size << 8 | byte(2 + i);
                }
                head += digits;
            }
            if (size > kFrameBytesMax) {
                die("a frame of " + std::to_string(size) + " bytes");
            }
            if (bytes.size() < head + size) {
                break;
            }
            on_frame(client, byte(0) & 0x0fu, bytes.substr(head, size), at);
            bytes.remove_prefix(head + size);
        }
        return std::string(bytes);
    }

    void on_frame(Client& client, unsigned opcode, std::string_view payload, std::int64_t at) {
        if (opcode == 9) {
            send_frame(client, 10, payload);
        } else if (opcode == 1 && payload.starts_with(type_)) {
            on_value(client, payload, at);
        } else if (!client.subscribed && payload.starts_with("{\"type\":\"subscribed\"")) {
            client.subscribed = true;
            ++subscribed_;
        }
    }

    void on_value(Client& client, std::string_view payload, std::int64_t at) {
        if (!started_) {
            return;  // The snapshot, whose positions need not be neighbours.
        }
        const std::uint64_t seq = number_after(payload, "\"seq\":");
        if (client.last_seq != 0 && seq != client.last_seq + 1) {
            ++result_.holes;
        }
        client.last_seq = seq;
        result_.first_ns = result_.deliveries == 0 ? at : result_.first_ns;
        result_.last_ns = at;
        ++result_.deliveries;
        result_.bytes += payload.size();
        complete_ += ++client.received == options_.expect ? 1u : 0u;
        const std::uint64_t sent = number_after(payload, "\"t_ns\":");
        if (sent != 0 && result_.latencies_us.size() < kLatenciesMax) {
            const std::int64_t took = at - static_cast<std::int64_t>(sent);
            result_.latencies_us.push_back(
                static_cast<std::uint32_t>(std::max<std::int64_t>(took, 0) / 1000));
        }
    }

    void print(double connect_seconds) {
        auto& latencies = result_.latencies_us;
        std::sort(latencies.begin(), latencies.end());
        const auto percentile = [&](double part) {
            return latencies.empty() ? 0.0
                                     : latencies[static_cast<std::size_t>(
                                           part * static_cast<double>(latencies.size() - 1))] /
                                           1000.0;
        };
        std::printf(
            "{\"clients\":%zu,\"connect_seconds\":%.3f,\"deliveries\":%llu,\"bytes\":%llu,"
            "\"seconds\":%.4f,\"holes\":%llu,\"closed\":%llu,\"complete\":%zu,"
            "\"latency_ms\":{\"samples\":%zu,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}}\n",
            clients_.size(), connect_seconds, static_cast<unsigned long long>(result_.deliveries),
            static_cast<unsigned long long>(result_.bytes),
            static_cast<double>(result_.last_ns - result_.first_ns) / 1e9,
            static_cast<unsigned long long>(result_.holes),
            static_cast<unsigned long long>(result_.closed), complete_, latencies.size(),
            percentile(0.5), percentile(0.99), percentile(1.0));
    }

    static constexpr std::uint64_t kStdin = ~std::uint64_t{0};

    Options options_;
    std::string type_;
    int epoll_;
    std::vector<Client> clients_;
    std::size_t subscribed_ = 0;
    std::size_t complete_ = 0;
    bool started_ = false;
    Result result_;
    std::vector<char> buffer_ = std::vector<char>(kReadBytes);
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--port") {
            options.port = static_cast<std::uint16_t>(std::stoul(value));
        } else if (name == "--clients") {
            options.clients = std::stoul(value);
        } else if (name == "--topic") {
            options.topic = value;
        } else if (name == "--seconds") {
            options.seconds = std::stod(value);
        } else if (name == "--expect") {
            options.expect = std::stoull(value);
        } else {
            die("unknown option " + name);
        }
    }
    if (argc % 2 == 0) {
        die("each option takes a value: --port --clients --topic --seconds --expect");
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const Options options = parse(argc, argv);
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        Load(options).run();
    } catch (const std::exception& problem) {
        die(problem.what());
    }
    return 0;
}
