// sigmacast-engine: see README.md.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "common/http.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/program.h"
#include "common/state_file.h"
#include "producer/host_engine/compression.h"
#include "producer/host_engine/envelope.h"
#include "producer/host_engine/host.h"

namespace sigmacast {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSampleBytes = 256u << 10;

Result<> make_folder(const fs::path& path) {
    std::error_code failed;
    fs::create_directories(path, failed);
    if (failed) {
        return Error{Errc::kUnavailable,
                     "cannot create the folder " + path.string() + ": " + failed.message()};
    }
    return {};
}

/// Something to try compression with. Made with its folder alone: who deletes it, wants it gone.
Result<> make_samples(const fs::path& folder) {
    std::error_code ignored;
    if (fs::exists(folder, ignored)) {
        return {};
    }
    if (Result<> made = make_folder(folder); !made) {
        return made;
    }
    std::string text;
    for (int line = 1; text.size() < kSampleBytes; ++line) {
        text += "Line " + std::to_string(line) + " of a sample that Sigmacast may compress.\n";
    }
    return write_file_durably(folder / "sample.txt", text);
}

struct Workplace {
    FileLock lock;
    host_engine::CompressionOptions options;
};

Result<Workplace> prepare(const Settings& settings) {
    const fs::path data = fs::absolute(settings.data_dir);
    const fs::path unfinished = data / "engine.unfinished";
    if (Result<> made = make_folder(unfinished); !made) {
        return made.error();
    }
    Result<FileLock> lock = FileLock::take(data / "engine.lock");
    if (!lock) {
        return lock.error().within("another engine uses the data folder");
    }
    host_engine::CompressionOptions options{
        .folders = settings.engine.compress_folders,
        .state_folder = unfinished,
        .workers = settings.engine.compress_workers,
        .level = static_cast<int>(settings.engine.compress_level)};
    if (options.folders.empty()) {
        options.folders = {(data / "samples").string()};
        if (Result<> made = make_samples(options.folders.front()); !made) {
            return made.error();
        }
    }
    return Workplace{std::move(*lock), std::move(options)};
}

int run_engine(const Settings& settings) {
    Result<Workplace> place = prepare(settings);
    if (!place) {
        log_error("cannot start", {{"why", place.error().message}});
        return kExitFailed;
    }
    Loop loop;
    host_engine::Host host;
    host_engine::Compression compression(std::move(place->options));
    host_engine::Methods methods = host.methods();
    methods.merge(compression.methods());
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
    compression.start();
    loop.on_terminate([&] { loop.stop(); });
    const std::string host_text =
        options.host.find(':') == std::string::npos || options.host[0] == '['
            ? options.host
            : "[" + options.host + "]";
    log_info("ready", {{"url", "http://" + host_text + ":" + std::to_string(server.port()) +
                                   host_engine::kRpcPath}});
    loop.run();
    compression.stop();
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
        .summary = "Serves this machine's figures over JSON-RPC, and compresses files.",
        .options = {{"--host", "Address to listen on; loopback alone", &host},
                    {"--port", "Port to listen on; 0: the system chooses", &port}},
        .apply = [&](sigmacast::Settings& settings) {
            settings.engine.host = host.value_or(settings.engine.host);
            settings.engine.port = port.value_or(settings.engine.port);
        }};
    return sigmacast::run_program(argc, argv, info, sigmacast::run_engine);
}
