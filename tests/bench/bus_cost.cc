// sigmacast-bench-bus: what one message costs on the bus, plain and with CURVE, in turns in one
// run. Prints microseconds of CPU, of both ends together: the ratio is what holds.
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "common/bus.h"

namespace sigmacast::bus {
namespace {

constexpr std::size_t kMessages = 200'000;
constexpr std::size_t kWindow = 2'000;  // On their way: below every mark, so that none is dropped.
constexpr int kRounds = 5;

std::string free_endpoint() {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(fd, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    ::close(fd);
    return "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

double cpu_seconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](timeval t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// Microseconds of CPU a message.
double cost(std::size_t bytes, const Curve& server, const Curve& client) {
    Loop loop;
    std::atomic<std::size_t> received = 0;
    const std::string endpoint = free_endpoint();
    Node sink(
        loop,
        {{.type = SocketType::kRouter, .endpoint = endpoint, .bind = true, .rights = kPublish}},
        [&](const std::vector<Incoming>& batch) { received += batch.size(); }, server);
    Node source(
        loop, {{.type = SocketType::kDealer, .endpoint = endpoint}},
        [](const std::vector<Incoming>&) {}, client);
    if (!sink.start() || !source.start()) {
        std::fprintf(stderr, "the sockets cannot be opened\n");
        std::exit(1);
    }
    std::thread runs([&] { loop.run(); });
    const std::string body(bytes, 'x');
    const auto send = [&](std::size_t count) {
        const std::size_t from = received;
        for (std::size_t sent = 0; sent < count;) {
            if (from + sent - received < kWindow) {
                source.send(0, {"t", body});
                ++sent;
            } else {
                ::usleep(50);
            }
        }
        while (received < from + count) {
            ::usleep(50);
        }
    };
    send(1'000);  // Connected, and warm.
    const double before = cpu_seconds();
    send(kMessages);
    const double used = cpu_seconds() - before;
    loop.stop();
    runs.join();
    return used * 1e6 / static_cast<double>(kMessages);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace
}  // namespace sigmacast::bus

int main() {
    using namespace sigmacast::bus;
    char folder[] = "/tmp/sigmacast-bench-XXXXXX";
    if (::mkdtemp(folder) == nullptr) {
        return 1;
    }
    const auto broker = sigmacast::write_key_pair(std::string(folder) + "/broker").value();
    const auto edge = sigmacast::write_key_pair(std::string(folder) + "/edge").value();
    const Curve server{.public_key = broker.public_key,
                       .secret_key = broker.secret_key,
                       .clients = {{"edge", {edge.public_key}, kPublish}}};
    const Curve client{.public_key = edge.public_key,
                       .secret_key = edge.secret_key,
                       .broker_key = broker.public_key};
    std::printf("%8s %10s %10s %6s\n", "bytes", "plain us", "CURVE us", "ratio");
    for (const std::size_t bytes : {100u, 300u, 1'000u, 10'000u}) {
        std::vector<double> plain;
        std::vector<double> secured;
        for (int round = 0; round < kRounds; ++round) {
            plain.push_back(cost(bytes, {}, {}));
            secured.push_back(cost(bytes, server, client));
        }
        std::printf("%8zu %10.2f %10.2f %6.1f\n", bytes, median(plain), median(secured),
                    median(secured) / median(plain));
    }
    for (const char* name : {"/broker", "/broker.pub", "/edge", "/edge.pub"}) {
        ::unlink((std::string(folder) + name).c_str());
    }
    ::rmdir(folder);
}
