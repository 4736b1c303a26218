# What the scripts of this folder share.
export PIP_DISABLE_PIP_VERSION_CHECK=1

# make_venv FOLDER REQUIREMENT...: a virtual environment with these requirements.
make_venv() {
    local folder=$1
    shift
    # Without ensurepip, which Debian's python3 lacks.
    python3 -m venv --without-pip "$folder"
    python3 -m pip --python "$folder/bin/python" install --quiet pip
    "$folder/bin/python" -m pip install --quiet "$@"
}
