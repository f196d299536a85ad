// sigmacast-bench-floor: what fanning out costs at the least, for tests/bench/run to hold the edge
// against.
//
//   sigmacast-bench-floor [--coalesce]
//
// One thread, one epoll. Speaks the handshake of WebSocket and nothing else of it; each line that
// comes on the feed becomes one prebuilt frame, and each client gets it by one send(). With
// --coalesce all frames that one read of the feed has brought go to a client by one send(). It
// keeps no positions, no state and no limits: a client that does not read grows its backlog without
// bound. Prints `CLIENT_PORT FEED_PORT` once it listens, and ends with its standard input.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/measuring.h"

namespace {

constexpr std::size_t kReadBytes = 64u << 10;  // Of the feed: small reads cost ten times as much.
constexpr std::size_t kRequestBytesMax = 8u << 10;  // A longer handshake is turned away.
constexpr int kBacklog = 4096;

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

int listen_anywhere() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(fd, kBacklog) != 0) {
        die("sigmacast-bench-floor: a listening socket");
    }
    return fd;
}

int port_of(int fd) {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.sin_port);
}

/// RFC 6455, 4.2.2: base64 of SHA-1 of the key and a constant.
std::string accept_of(std::string_view key) {
    const std::string text = std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    std::array<unsigned char, SHA_DIGEST_LENGTH> digest{};
    EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha1(), nullptr);
    std::array<unsigned char, 32> encoded{};
    EVP_EncodeBlock(encoded.data(), digest.data(), static_cast<int>(digest.size()));
    return reinterpret_cast<const char*>(encoded.data());
}

std::string_view key_of(std::string_view request) {
    constexpr std::string_view kName = "\r\nSec-WebSocket-Key: ";
    const std::size_t at = request.find(kName);
    if (at == std::string_view::npos) {
        return {};
    }
    request.remove_prefix(at + kName.size());
    return request.substr(0, request.find('\r'));
}

void append_frame(std::string& out, std::string_view payload) {
    out += '\x81';
    if (payload.size() < 126) {
        out += static_cast<char>(payload.size());
    } else {
        out += '\x7e';
        out += static_cast<char>(payload.size() >> 8 & 0xff);
        out += static_cast<char>(payload.size() & 0xff);
    }
    out += payload;
}

struct Client {
    bool upgraded = false;
    std::string in;       // Of the handshake.
    std::string backlog;  // What its socket has not taken.
};

class Floor {
 public:
    explicit Floor(bool coalesce) : coalesce_(coalesce) {}

    [[noreturn]] void run() {
        std::printf("%d %d\n", port_of(clients_listen_), port_of(feed_listen_));
        std::fflush(stdout);
        add(clients_listen_, EPOLLIN);
        add(feed_listen_, EPOLLIN);
        add(STDIN_FILENO, EPOLLIN);
        std::array<epoll_event, 256> ready{};
        while (true) {
            const int count = epoll_wait(epoll_, ready.data(), static_cast<int>(ready.size()), -1);
            for (int i = 0; i < count; ++i) {
                on_ready(ready[static_cast<std::size_t>(i)]);
            }
        }
    }

 private:
    void add(int fd, std::uint32_t events) {
        epoll_event event{};
        event.events = events;
        event.data.fd = fd;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    }

    void on_ready(const epoll_event& event) {
        const int fd = event.data.fd;
        if (fd == STDIN_FILENO) {
            std::exit(0);
        } else if (fd == clients_listen_) {
            accept_clients();
        } else if (fd == feed_listen_) {
            feed_ = accept4(feed_listen_, nullptr, nullptr, SOCK_NONBLOCK);
            add(feed_, EPOLLIN);
        } else if (fd == feed_) {
            read_feed();
        } else if ((event.events & EPOLLOUT) != 0) {
            flush(fd);
        } else {
            read_client(fd);
        }
    }

    void accept_clients() {
        int fd = 0;
        while ((fd = accept4(clients_listen_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
            const int on = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            if (static_cast<std::size_t>(fd) >= clients_.size()) {
                close(fd);
                continue;
            }
            clients_[static_cast<std::size_t>(fd)] = {};
            add(fd, EPOLLIN);
        }
    }

    void read_client(int fd) {
        std::array<char, 2048> bytes{};
        const ssize_t got = recv(fd, bytes.data(), bytes.size(), 0);
        Client& client = clients_[static_cast<std::size_t>(fd)];
        if (got < 0 && errno == EAGAIN) {
            return;
        }
        if (got <= 0) {
            drop(fd);
        } else if (!client.upgraded) {
            client.in.append(bytes.data(), static_cast<std::size_t>(got));
            if (client.in.find("\r\n\r\n") != std::string::npos) {
                upgrade(fd);
            } else if (client.in.size() > kRequestBytesMax) {
                drop(fd);
            }
        }  // What a client says later does not matter here.
    }

    void upgrade(int fd) {
        Client& client = clients_[static_cast<std::size_t>(fd)];
        const std::string_view key = key_of(client.in);
        if (key.empty()) {
            drop(fd);
            return;
        }
        const std::string answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: " +
            accept_of(key) + "\r\n\r\n";
        client.upgraded = true;
        client.in = {};
        listeners_.push_back(fd);
        put(fd, answer);
    }

    void drop(int fd) {
        std::erase(listeners_, fd);
        clients_[static_cast<std::size_t>(fd)] = {};
        close(fd);
    }

    void read_feed() {
        const ssize_t got = recv(feed_, buffer_.data(), buffer_.size(), 0);
        if (got <= 0) {
            if (got == 0 || errno != EAGAIN) {
                close(feed_);
                feed_ = -1;
            }
            return;
        }
        lines_.append(buffer_.data(), static_cast<std::size_t>(got));
        std::size_t from = 0;
        std::size_t end = 0;
        frames_.clear();
        while ((end = lines_.find('\n', from)) != std::string::npos) {
            append_frame(frames_, std::string_view(lines_).substr(from, end - from));
            from = end + 1;
            if (!coalesce_) {
                put_to_all();
            }
        }
        lines_.erase(0, from);
        if (!frames_.empty()) {
            put_to_all();
        }
    }

    void put_to_all() {
        for (const int fd : listeners_) {
            put(fd, frames_);
        }
        frames_.clear();
    }

    void put(int fd, std::string_view bytes) {
        std::string& backlog = clients_[static_cast<std::size_t>(fd)].backlog;
        if (!backlog.empty()) {
            backlog += bytes;
            return;
        }
        const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        const std::size_t taken = sent < 0 ? 0 : static_cast<std::size_t>(sent);
        if (taken < bytes.size()) {  // One that is gone is dropped when epoll says so.
            backlog = bytes.substr(taken);
            watch(fd, EPOLLIN | EPOLLOUT);
        }
    }

    void flush(int fd) {
        std::string& backlog = clients_[static_cast<std::size_t>(fd)].backlog;
        const ssize_t sent = send(fd, backlog.data(), backlog.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) {
                drop(fd);
            }
            return;
        }
        backlog.erase(0, static_cast<std::size_t>(sent));
        if (backlog.empty()) {
            watch(fd, EPOLLIN);
        }
    }

    void watch(int fd, std::uint32_t events) {
        epoll_event event{};
        event.events = events;
        event.data.fd = fd;
        epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
    }

    static std::size_t descriptors() {
        constexpr std::size_t kMost = 100'000;
        return std::min(sigmacast::bench::raise_descriptor_limit(), kMost);
    }

    bool coalesce_;
    int epoll_ = epoll_create1(0);
    int clients_listen_ = listen_anywhere();
    int feed_listen_ = listen_anywhere();
    int feed_ = -1;
    std::vector<Client> clients_ = std::vector<Client>(descriptors());  // By descriptor.
    std::vector<int> listeners_;
    std::vector<char> buffer_ = std::vector<char>(kReadBytes);
    std::string lines_;  // Of the feed, the last one perhaps not whole.
    std::string frames_;
};

}  // namespace

int main(int argc, char** argv) {
    const bool coalesce = argc == 2 && std::string_view(argv[1]) == "--coalesce";
    if (argc > 1 && !coalesce) {
        std::fputs("usage: sigmacast-bench-floor [--coalesce]\n", stderr);
        return 2;
    }
    Floor(coalesce).run();
}
