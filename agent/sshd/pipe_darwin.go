package sshd

func growPipe(int, int) error { return nil } // the system does it by itself
