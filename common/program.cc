#include "common/program.h"

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "common/log.h"

namespace sigmacast {
namespace {

struct CommonOptions {
    std::string config;
    std::string data_dir;
    std::string log_level;
    bool check = false;
    bool print_config = false;
};

void complain(const std::string& program, const std::string& message) {
    std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
}

void add_options(CLI::App& app, CommonOptions& common, const ProgramInfo& info) {
    app.add_option("-c,--config", common.config, "Configuration file (TOML)")->type_name("FILE");
    app.add_flag("--check", common.check, "Check the configuration and end");
    app.add_flag("--print-config", common.print_config,
                 "Print a configuration file with every default and end");
    app.add_option("--data-dir", common.data_dir, "Folder for what is kept")->type_name("DIR");
    app.add_option("--log-level", common.log_level, "debug, info, warn or error")
        ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
        ->type_name("LEVEL");
    app.set_version_flag("--version", info.name + " " + SIGMACAST_VERSION);
    for (const ProgramOption& option : info.options) {
        std::visit(
            [&](auto* value) {
                if constexpr (std::is_same_v<decltype(value), bool*>) {
                    app.add_flag(option.flags, *value, option.help);
                } else {
                    app.add_option(option.flags, *value, option.help);
                }
            },
            option.value);
    }
}

void apply(const CommonOptions& common, const ProgramInfo& info, Settings& settings) {
    if (!common.data_dir.empty()) {
        settings.data_dir = common.data_dir;
    }
    if (!common.log_level.empty()) {
        settings.log_level = common.log_level;
    }
    if (info.apply) {
        info.apply(settings);
    }
}

int guarded(const Settings& settings, const std::function<int(const Settings&)>& body) {
    try {
        return body(settings);
    } catch (const std::exception& problem) {
        log_error("ended by a problem", {{"what", std::string(problem.what())}});
        return kExitFailed;
    }
}

/// Each connection is a descriptor, and shells hand down a soft limit of 1,024: as many as there
/// may be. (Nothing here uses select(2), for which that limit is kept.)
void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

int run_program(int argc, const char* const* argv, const ProgramInfo& info,
                const std::function<int(const Settings&)>& body) {
    CommonOptions common;
    CLI::App app(info.summary, info.name);
    add_options(app, common, info);
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& wanted) {  // --help and --version.
        return app.exit(wanted);
    } catch (const CLI::ParseError& problem) {
        complain(info.name, std::string(problem.what()) + " (see --help)");
        return kExitUsage;
    }

    if (common.print_config) {
        std::fputs(default_config_text().c_str(), stdout);
        return kExitOk;
    }
    std::vector<std::string> notes;
    Result<Settings> loaded = load_settings(
        common.config, [](const char* name) -> const char* { return std::getenv(name); }, notes,
        [&](Settings& settings) { apply(common, info, settings); });
    if (loaded && info.check) {
        if (const auto good = info.check(*loaded); !good) {
            loaded = good.error();
        }
    }
    if (loaded && info.remark) {
        info.remark(*loaded, notes);
    }
    if (!loaded) {
        complain(info.name, "the configuration is refused\n" + loaded.error().message);
        return kExitUsage;
    }
    if (common.check) {
        for (const std::string& note : notes) {
            std::printf("note: %s\n", note.c_str());
        }
        std::printf("%s: the configuration is good\n", info.name.c_str());
        return kExitOk;
    }
    // A limit on the size of files (RLIMIT_FSIZE) is then a disk that refuses, which each writer
    // handles, and not the end of the process.
    std::signal(SIGXFSZ, SIG_IGN);
    raise_descriptor_limit();
    log_start(info.name, loaded->log_level);
    for (const std::string& note : notes) {
        log_warn("about the settings", {{"note", note}});
    }
    return guarded(*loaded, body);
}

}  // namespace sigmacast
