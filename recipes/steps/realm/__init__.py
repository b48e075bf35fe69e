"""The steps of Arm CCA realms: kernel, applications, initramfs, golden values, provisioning."""
