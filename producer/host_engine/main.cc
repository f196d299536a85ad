// sigmacast-engine: see README.md.
#include <cstdint>
#include <optional>
#include <string>

#include "common/http.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/program.h"
#include "producer/host_engine/envelope.h"
#include "producer/host_engine/host.h"

namespace sigmacast {
namespace {

int run_engine(const Settings& settings) {
    Loop loop;
    host_engine::Host host;
    const host_engine::Methods methods = host.methods();
    http::ServerOptions options;
    options.host = settings.engine.host;
    options.port = settings.engine.port;
    options.server_name = std::string("sigmacast-engine/") + SIGMACAST_VERSION;
    options.connections_max = 256;
    http::Server server(loop, options,
                        [&](const http::Request& request, http::Server::Respond respond) {
                            respond(host_engine::answer(request, methods));
                        });
    const Result<> started = server.start();
    if (!started) {
        log_error("cannot start", {{"why", started.error().message}});
        return kExitFailed;
    }
    loop.on_terminate([&] { loop.stop(); });
    const std::string host_text =
        options.host.find(':') == std::string::npos || options.host[0] == '['
            ? options.host
            : "[" + options.host + "]";
    log_info("ready", {{"url", "http://" + host_text + ":" + std::to_string(server.port()) +
                                   host_engine::kRpcPath}});
    loop.run();
    log_info("stopped");
    return kExitOk;
}

}  // namespace
}  // namespace sigmacast

int main(int argc, char** argv) {
    std::optional<std::string> host;
    std::optional<std::uint16_t> port;
    const sigmacast::ProgramInfo info{
        .name = "sigmacast-engine",
        .summary = "Serves this machine's figures over JSON-RPC.",
        .options = {{"--host", "Address to listen on; loopback alone", &host},
                    {"--port", "Port to listen on; 0: the system chooses", &port}},
        .apply = [&](sigmacast::Settings& settings) {
            settings.engine.host = host.value_or(settings.engine.host);
            settings.engine.port = port.value_or(settings.engine.port);
        }};
    return sigmacast::run_program(argc, argv, info, sigmacast::run_engine);
}
