#include "common/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "temp_folder.h"

namespace sigmacast {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class ProgramTest : public testing::Test {
 protected:
    ProgramTest() {
        unsetenv("SIGMAVAULT_PORT");
        unsetenv("SIGMAVAULT_DATA_DIR");
    }

    /// Runs the program with these arguments; what it says is in out_ and err_.
    int run(std::vector<const char*> arguments) {
        arguments.insert(arguments.begin(), "sigmacast-test");
        bodies_ = 0;
        testing::internal::CaptureStdout();
        testing::internal::CaptureStderr();
        const int code = run_program(static_cast<int>(arguments.size()), arguments.data(), info_,
                                     [this](const Settings& settings) {
                                         ++bodies_;
                                         settings_ = settings;
                                         return body_();
                                     });
        out_ = testing::internal::GetCapturedStdout();
        err_ = testing::internal::GetCapturedStderr();
        return code;
    }
    const char* configure(const std::string& text) {
        std::ofstream(config_) << text;
        return config_.c_str();
    }

    TempFolder folder_;
    std::string config_ = folder_.file("c.toml");
    std::optional<std::uint16_t> port_;
    ProgramInfo info_{.name = "sigmacast-test",
                      .summary = "For tests.",
                      .options = {{"--port", "A port", &port_}},
                      .apply = [this](Settings& settings) {
                          settings.edge.port = port_.value_or(settings.edge.port);
                      }};
    std::function<int()> body_ = [] { return 0; };
    int bodies_ = 0;
    Settings settings_;
    std::string out_;
    std::string err_;
};

TEST_F(ProgramTest, WithoutOptionsTheBodyGetsTheDefaultsAndItsResultIsTheExitCode) {
    body_ = [] { return 7; };
    EXPECT_EQ(7, run({}));
    EXPECT_EQ(1, bodies_);
    EXPECT_EQ(12080, settings_.edge.port);
}

TEST_F(ProgramTest, TheFileOverridesTheDefaultAndTheCommandLineTheFile) {
    const char* file = configure("[edge]\nport = 4000\n");
    EXPECT_EQ(kExitOk, run({"--config", file}));
    EXPECT_EQ(4000, settings_.edge.port);
    EXPECT_EQ(kExitOk, run({"--config", file, "--port", "5000", "--data-dir", "/x"}));
    EXPECT_EQ(5000, settings_.edge.port);
    EXPECT_EQ("/x", settings_.data_dir);
}

TEST_F(ProgramTest, CheckSaysThatTheConfigurationIsGoodAndStartsNothing) {
    EXPECT_EQ(kExitOk, run({"--check", "--config", configure("[edge]\nport = 4000\n")}));
    EXPECT_EQ("sigmacast-test: the configuration is good\n", out_);
    EXPECT_EQ("", err_);
    EXPECT_EQ(0, bodies_);
}

TEST_F(ProgramTest, AnUnknownKeyIsNamedWithFileAndLineAndStartsNothing) {
    const char* file = configure("[edge]\nprot = 4000\n");
    for (const auto& arguments : {std::vector<const char*>{"--config", file},
                                  std::vector<const char*>{"--check", "--config", file}}) {
        EXPECT_EQ(kExitUsage, run(arguments));
        EXPECT_THAT(err_, AllOf(StartsWith("sigmacast-test: the configuration is refused\n"),
                                HasSubstr(config_ + ":2"), HasSubstr("prot")));
        EXPECT_EQ("", out_);
        EXPECT_EQ(0, bodies_);
    }
}

TEST_F(ProgramTest, AFileThatIsNotThereIsNamed) {
    EXPECT_EQ(kExitUsage, run({"--check", "--config", config_.c_str()}));
    EXPECT_THAT(err_, HasSubstr(config_));
}

TEST_F(ProgramTest, WhatPrintConfigPrintsIsAccepted) {
    EXPECT_EQ(kExitOk, run({"--print-config"}));
    EXPECT_EQ(0, bodies_);
    const std::string printed = out_;
    EXPECT_EQ(kExitOk, run({"--check", "--config", configure(printed)})) << err_;
}

TEST_F(ProgramTest, VersionAndHelpAreAnswersAndNoErrors) {
    EXPECT_EQ(kExitOk, run({"--version"}));
    EXPECT_EQ("sigmacast-test " SIGMACAST_VERSION "\n", out_);
    EXPECT_EQ(kExitOk, run({"--help"}));
    EXPECT_THAT(out_, AllOf(HasSubstr("For tests."), HasSubstr("--port"), HasSubstr("--config")));
    EXPECT_EQ(0, bodies_);
}

TEST_F(ProgramTest, ABadOptionIsOneLineThatNamesIt) {
    EXPECT_EQ(kExitUsage, run({"--prot", "1"}));
    EXPECT_THAT(err_, AllOf(StartsWith("sigmacast-test: "), HasSubstr("--prot"),
                            HasSubstr("(see --help)\n")));
    EXPECT_EQ(kExitUsage, run({"--port", "70000"}));
    EXPECT_THAT(err_, HasSubstr("--port"));
    EXPECT_EQ(kExitUsage, run({"--log-level", "loud"}));
    EXPECT_THAT(err_, HasSubstr("--log-level"));
    EXPECT_EQ(0, bodies_);
}

TEST_F(ProgramTest, WhatAnOptionSetsIsHeldAgainstTheRulesLikeTheFile) {
    info_.apply = [](Settings& settings) { settings.edge.host = "0.0.0.0"; };
    EXPECT_EQ(kExitUsage, run({}));
    EXPECT_THAT(err_, HasSubstr("edge.host"));
    EXPECT_EQ(0, bodies_);
}

TEST_F(ProgramTest, AnExceptionIsOneLineAndTheExitCodeOfAFailure) {
    body_ = []() -> int { throw std::runtime_error("the moon is down"); };
    EXPECT_EQ(kExitFailed, run({}));
    EXPECT_THAT(err_, HasSubstr("the moon is down"));
}

TEST_F(ProgramTest, WhatTheProgramItselfRefusesIsRefusedLikeASetting) {
    info_.check = [](const Settings& settings) -> Result<> {
        if (settings.edge.port == 7) {
            return Error{Errc::kInvalid, "edge.port: not seven"};
        }
        return {};
    };
    EXPECT_EQ(run({"--port", "8"}), kExitOk);
    for (const char* check : {"--check", "--log-level=info"}) {
        EXPECT_EQ(run({"--port", "7", check}), kExitUsage);
        EXPECT_EQ(bodies_, 0);
        EXPECT_THAT(err_, HasSubstr("refused\nedge.port: not seven"));
    }
}

TEST_F(ProgramTest, ItMayOpenAsManyFilesAsTheHardLimitAllows) {
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 64;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    rlimit within{};
    body_ = [&] { return getrlimit(RLIMIT_NOFILE, &within); };
    EXPECT_EQ(run({}), 0);
    EXPECT_EQ(within.rlim_cur, limit.rlim_max);
}

}  // namespace
}  // namespace sigmacast
