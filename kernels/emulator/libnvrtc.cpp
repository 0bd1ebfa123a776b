// Stand-in libnvrtc: compiles with g++ against the emulator's headers. A "cubin" is a shared library for the stand-in libcuda.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

enum Result { SUCCESS = 0, OUT_OF_MEMORY = 1, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL = 11 };

#ifndef EMU_SANITIZE
#define EMU_SANITIZE ""
#endif

struct Program {
    std::string name, source, log, image;
    std::vector<std::pair<std::string, std::string>> headers;
};

static bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

// Each kernel is found in the main source by its KERNEL(...), and so need not be exported there by hand.
static std::string exports(const std::string& source) {
    std::string code = std::regex_replace(source, std::regex("//[^\n]*|\"[^\"\n]*\""), "");
    std::regex token("\\bnamespace\\s+(\\w+)\\s*\\{|\\bKERNEL\\s*\\(([^()]*)\\)\\s*(\\w+)\\s*\\(|[{}]");
    std::vector<std::string> scopes; // names of the namespaces around, "" for other braces
    std::string text;
    for (std::sregex_iterator found(code.begin(), code.end(), token), end; found != end; ++found) {
        const std::smatch& match = *found;
        std::string name = match[3];
        if (!name.empty()) {
            std::string function;
            for (const std::string& scope : scopes) {
                function += scope.empty() ? "" : scope + "::";
            }
            if (!std::regex_search(code, std::regex("\\bKERNEL_EXPORT\\s*\\(\\s*" + name + "\\s*\\)"))) {
                text += "EMU_EXPORT(" + name + ", " + function + name + ", (" + std::string(match[2]) + "))\n";
            }
        } else if (match[0] != "}") {
            scopes.push_back(match[1]);
        } else if (!scopes.empty()) {
            scopes.pop_back();
        }
    }
    return text;
}

// Where the emulator's headers are: beside this library.
static std::string include_folder() {
    Dl_info info;
    if (!dladdr((void*)include_folder, &info) || !info.dli_fname) {
        return "include";
    }
    return (std::filesystem::absolute(info.dli_fname).parent_path() / "include").string();
}

// Options of the compiler that it stands for; false for one that there is not.
static bool translate(const std::vector<std::string>& options, std::vector<std::string>& flags, std::string& architecture,
                      std::string& log) {
    for (const std::string& option : options) {
        auto value = [&] { return option.substr(option.find('=') + 1); };
        if (starts(option, "--gpu-architecture=") || starts(option, "-arch=")) {
            architecture = value();
        } else if (starts(option, "--define-macro=")) {
            flags.push_back("-D" + value());
        } else if (starts(option, "--include-path=")) {
            flags.push_back("-I" + value());
        } else if (starts(option, "-D") || starts(option, "-I")) {
            flags.push_back(option);
        } else if (starts(option, "--std=") || starts(option, "-std=")) {
            if (value() != "c++17") {
                log += "the emulator compiles C++17 only, not " + value() + "\n";
                return false;
            }
        } else {
            static const char* const known[] = {
                "--ptxas-options", "--use_fast_math", "--fmad", "--ftz", "--prec-div", "--prec-sqrt", "--extra-device-vectorization",
                "--device-as-default-execution-space", "-default-device", "--maxrregcount", "--restrict", "--relocatable-device-code",
                "--generate-line-info", "-lineinfo", "--dopt", "--minimal", "--no-source-include", "--diag-", "--display-error-number",
                "--disable-warnings", "-w",
            };
            bool is_known = false;
            for (const char* each : known) {
                is_known |= starts(option, each);
            }
            if (!is_known) {
                log += "unknown option: " + option + "\n";
                return false;
            }
        }
    }
    return true;
}

static std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

static void write(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

// Runs a program with its output in a file; its exit status, or 127.
static int execute(const std::vector<std::string>& words, const std::string& output) {
    std::vector<char*> pointers;
    for (const std::string& word : words) {
        pointers.push_back(const_cast<char*>(word.c_str()));
    }
    pointers.push_back(nullptr);
    std::vector<char*> environment;
    for (char** each = environ; *each; each++) {
        if (!starts(*each, "LD_PRELOAD=")) { // a sanitizer's runtime is not for the compiler
            environment.push_back(*each);
        }
    }
    environment.push_back(nullptr);
    pid_t child = fork();
    if (child == 0) {
        int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(file, 1);
        dup2(file, 2);
        execvpe(pointers[0], pointers.data(), environment.data());
        _exit(127);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        return 127;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 127;
}

// In an ELF header.
constexpr size_t MACHINE_AT = 18;
constexpr unsigned CUDA_MACHINE = 190;

static Result compile(Program& program, const std::vector<std::string>& options) {
    std::vector<std::string> flags;
    std::string architecture = "sm_52";
    if (!translate(options, flags, architecture, program.log)) {
        return INVALID_OPTION;
    }
    if (!starts(architecture, "sm_")) {
        program.log = "the emulator makes images of real architectures (sm_80), not of " + architecture + "\n";
        return INVALID_OPTION;
    }
    std::string pattern = (std::filesystem::temp_directory_path() / "gavel-kernels-XXXXXX").string();
    if (!mkdtemp(pattern.data())) {
        program.log = "cannot make a temporary folder\n";
        return INTERNAL;
    }
    std::filesystem::path folder = pattern;
    for (const auto& [name, text] : program.headers) {
        write(folder / name, text);
    }
    write(folder / "main.cpp", "#line 1 \"" + program.name + "\"\n" + program.source + "\n#line 1 \"exports\"\n" + exports(program.source) +
                                   "extern \"C\" __attribute__((visibility(\"default\"))) const char* emu_architecture;\n"
                                   "const char* emu_architecture = \"" + architecture + "\";\n");
    std::vector<std::string> words = {
        "g++", "-std=c++17", "-DEMU", "-O1", "-g0", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden",
        "-fno-exceptions", "-fno-asynchronous-unwind-tables", "-Wno-attributes", "-Wno-unknown-pragmas",
    };
    std::istringstream sanitize(EMU_SANITIZE);
    words.insert(words.end(), std::istream_iterator<std::string>(sanitize), {});
    words.insert(words.end(), flags.begin(), flags.end());
    std::string image = folder / "image.so", output = folder / "output";
    words.insert(words.end(), {"-I" + folder.string(), "-I" + include_folder(), folder / "main.cpp", "-o", image});
    int status = execute(words, output);
    program.log = std::regex_replace(read(output), std::regex(folder.string() + "/"), "");
    program.image = status == 0 ? read(image) : "";
    if (program.image.size() > MACHINE_AT + 1) { // as code for a GPU is marked; the stand-in libcuda takes the mark off again
        program.image[MACHINE_AT] = (char)CUDA_MACHINE;
        program.image[MACHINE_AT + 1] = 0;
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    if (status == 127) {
        program.log += "g++ cannot be run\n";
    }
    return status == 0 ? SUCCESS : COMPILATION;
}

API int nvrtcVersion(int* major, int* minor) {
    *major = 12;
    *minor = 9;
    return SUCCESS;
}
API const char* nvrtcGetErrorString(int code) {
    switch (code) {
    case SUCCESS: return "NVRTC_SUCCESS";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}
static const int ARCHITECTURES[] = {80, 86, 87, 89, 90, 100, 103, 120};
API int nvrtcGetNumSupportedArchs(int* count) {
    *count = (int)std::size(ARCHITECTURES);
    return SUCCESS;
}
API int nvrtcGetSupportedArchs(int* architectures) {
    memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
    return SUCCESS;
}
API int nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers, const char* const* texts,
                           const char* const* names) {
    if (!program || !source || headers < 0) {
        return INVALID_INPUT;
    }
    *program = new Program{name ? name : "default_program", source, "", "", {}};
    for (int i = 0; i < headers; i++) {
        (*program)->headers.emplace_back(names[i], texts[i]);
    }
    return SUCCESS;
}
API int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}
API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    return compile(*program, std::vector<std::string>(options, options + count));
}
API int nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return SUCCESS;
}
API int nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}
API int nvrtcGetCUBINSize(Program* program, size_t* bytes) {
    *bytes = program->image.size();
    return program->image.empty() ? INVALID_PROGRAM : SUCCESS;
}
API int nvrtcGetCUBIN(Program* program, char* image) {
    memcpy(image, program->image.data(), program->image.size());
    return program->image.empty() ? INVALID_PROGRAM : SUCCESS;
}
